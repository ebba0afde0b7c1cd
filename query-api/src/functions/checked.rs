//! Arithmetic of whole numbers that says so when a result does not fit.
//!
//! DataFusion's operators wrap around: `9223372036854775807 + 1` is a negative number. Behind the
//! coercion of types each of `+`, `-` and `*` of whole numbers becomes a function that refuses.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::compute::kernels::numeric::{add, mul, sub};
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
use datafusion::physical_expr_common::datum::apply;

/// Puts the functions for the operators.
#[derive(Debug)]
pub(crate) struct CheckedArithmetic;

impl AnalyzerRule for CheckedArithmetic {
    fn name(&self) -> &'static str {
        "checked_arithmetic"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        super::micros::rewrite(plan, &|expr, schema| {
            expr.transform_up(|expr| {
                let whole = |side: &Expr| is_whole(side, schema);
                let (left, op, right) = match expr {
                    Expr::BinaryExpr(BinaryExpr { left, op, right }) => (left, op, right),
                    // A literal's sign is folded, with a check.
                    Expr::Negative(inner)
                        if whole(&inner) && !matches!(*inner, Expr::Literal(..)) =>
                    {
                        let zero = ScalarValue::new_zero(&inner.get_type(schema)?)?;
                        let zero = Box::new(Expr::Literal(zero, None));
                        (zero, Operator::Minus, inner)
                    }
                    other => return Ok(Transformed::no(other)),
                };
                match function_of(op) {
                    Some(function) if whole(&left) && whole(&right) => {
                        let func = Arc::clone(function);
                        let args = vec![*left, *right];
                        let call = ScalarFunction { func, args };
                        Ok(Transformed::yes(Expr::ScalarFunction(call)))
                    }
                    _ => Ok(Transformed::no(Expr::BinaryExpr(BinaryExpr {
                        left,
                        op,
                        right,
                    }))),
                }
            })
        })
    }
}

/// Without asking what is below for its type where that is known: chains are long.
fn is_whole(expr: &Expr, schema: &DFSchema) -> bool {
    match expr {
        Expr::ScalarFunction(call) if call.func.inner().is::<Checked>() => true,
        Expr::Cast(cast) => cast.field.data_type().is_integer(),
        _ => expr.get_type(schema).is_ok_and(|of| of.is_integer()),
    }
}

fn function_of(operator: Operator) -> Option<&'static Arc<ScalarUDF>> {
    static PLUS: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| made(Operator::Plus));
    static MINUS: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| made(Operator::Minus));
    static TIMES: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| made(Operator::Multiply));
    match operator {
        Operator::Plus => Some(&PLUS),
        Operator::Minus => Some(&MINUS),
        Operator::Multiply => Some(&TIMES),
        _ => None,
    }
}

fn made(operator: Operator) -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::new_from_impl(Checked {
        operator,
        name: format!("checked {operator}"),
        // Both sides have the same type by now.
        signature: Signature::any(2, Volatility::Immutable),
    }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Checked {
    operator: Operator,
    name: String,
    signature: Signature,
}

impl ScalarUDFImpl for Checked {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        let [left, _] = take_function_args(&self.name, arg_types)?;
        Ok(left.clone())
    }

    /// Null where either side is, as with the operator: unions look at that.
    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let [left, right] = take_function_args(&self.name, args.arg_fields)?;
        let nullable = left.is_nullable() || right.is_nullable();
        let field = Field::new(&self.name, left.data_type().clone(), nullable);
        Ok(Arc::new(field))
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let [left, right] = take_function_args(&self.name, args)?;
        let (left, right) = (left.schema_name(), right.schema_name());
        Ok(format!("{left} {} {right}", self.operator))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [left, right] = take_function_args(&self.name, args.args)?;
        match self.operator {
            Operator::Minus => apply(&left, &right, sub),
            Operator::Multiply => apply(&left, &right, mul),
            _ => apply(&left, &right, add),
        }
    }
}
