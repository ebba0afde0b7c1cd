//! What grows without being a function of the session: operators, and functions that planners put in.
//!
//! `a || b` has no function, and for `[a, b]`, `list || list` or `OVERLAY(…)` the planner takes
//! DataFusion's own. A chain of queries that doubles a text each time is as short as it is large; so
//! behind the coercion of types all of them become functions with a bound.

use std::sync::Arc;

use datafusion::arrow::array::Array;
use datafusion::arrow::compute::kernels::concat_elements::concat_elements_dyn;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::utils::take_function_args;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, LogicalPlan, Operator, ReturnFieldArgs,
    ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::optimizer::AnalyzerRule;

use super::bounded::Bounded;
use super::growth::Growth;

/// Puts bounded functions for operators, and for functions that have no bound yet.
#[derive(Debug)]
pub(super) struct BoundedOperators {
    /// Of the value for one batch.
    pub bytes_max: usize,
}

impl BoundedOperators {
    fn bounded(&self, function: Arc<ScalarUDF>, growth: Growth) -> Arc<ScalarUDF> {
        Arc::new(ScalarUDF::new_from_impl(Bounded {
            function,
            growth,
            bytes_max: self.bytes_max,
        }))
    }

    fn change(&self, expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
        match expr {
            Expr::BinaryExpr(BinaryExpr {
                left,
                op: Operator::StringConcat,
                right,
            }) => {
                let joined = Joined::new(left.get_type(schema)?);
                let function = Arc::new(ScalarUDF::new_from_impl(joined));
                Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction {
                    func: self.bounded(function, Growth::Sum),
                    args: vec![*left, *right],
                })))
            }
            Expr::ScalarFunction(ScalarFunction { func, args }) => {
                let growth = super::growth(func.name());
                let growth = growth.filter(|_| !func.inner().is::<Bounded>());
                let changed = growth.is_some();
                let func = match growth {
                    Some(growth) => self.bounded(func, growth),
                    None => func,
                };
                let call = Expr::ScalarFunction(ScalarFunction { func, args });
                Ok(Transformed::new_transformed(call, changed))
            }
            other => Ok(Transformed::no(other)),
        }
    }
}

impl AnalyzerRule for BoundedOperators {
    fn name(&self) -> &'static str {
        "bounded_operators"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        super::micros::rewrite(plan, &|expr, schema| {
            expr.transform_up(|expr| self.change(expr, schema))
        })
    }
}

/// `a || b` of texts, or of bytes: null where either is.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Joined {
    /// Of both sides, and of the value.
    of: DataType,
    signature: Signature,
}

impl Joined {
    fn new(of: DataType) -> Self {
        Self {
            of,
            // Both sides have the same type by now.
            signature: Signature::any(2, Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for Joined {
    fn name(&self) -> &'static str {
        "||"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.of.clone())
    }

    /// Null where either side is, as with the operator: unions look at that.
    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        let field = Field::new(self.name(), self.of.clone(), nullable);
        Ok(Arc::new(field))
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let [left, right] = take_function_args(self.name(), args)?;
        Ok(format!("{} || {}", left.schema_name(), right.schema_name()))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args
            .args
            .iter()
            .all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [left, right] = take_function_args(self.name(), arrays)?;
        let joined = concat_elements_dyn(&left, &right)?;
        Ok(match constant && joined.len() == 1 {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&joined, 0)?),
            false => ColumnarValue::Array(joined),
        })
    }
}
