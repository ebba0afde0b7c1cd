//! Fields of structs, and values of maps, with the nulls of what they lie in.
//!
//! ```text
//!  st['a']['b'] ─ every plan ─► get_field of ours: null wherever `st` or `st['a']` is
//!                 in a file ─► DataFusion's, where the file's reader sets those nulls anyway:
//!                              then only the leaf is read
//! ```
//! What stands in a child under a null of its parent means nothing: Parquet's reader fills required
//! fields up with anything, and so may the senders of Arrow. DataFusion's own `get_field` hands it
//! out, and its `unnest` of a struct does so, too ([`unnested`]). Ours has the same name, types and
//! columns' names. Invariant: no plan evaluates DataFusion's over rows of which it is not known that
//! each child has its parents' nulls ([`in_files`]).

mod in_files;
mod unnested;

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use datafusion::arrow::compute::nullif;
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::{DataFusionError, Result};
use datafusion::functions::core::getfield::GetFieldFunc;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ExpressionPlacement, ReturnFieldArgs, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature,
};

pub(super) use in_files::FieldsInFiles;
pub(crate) use unnested::UnnestedFieldsOfNullsAreNull;

/// `get_field` as it should be; all but the values is DataFusion's.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
struct FieldOf {
    theirs: GetFieldFunc,
}

impl FieldOf {
    /// One step into a struct or a map.
    fn step(&self, base: ColumnarValue, args: &ScalarFunctionArgs, key: usize) -> Result<ArrayRef> {
        let rows = match &base {
            ColumnarValue::Array(array) => array.len(),
            ColumnarValue::Scalar(_) => 1,
        };
        let base = base.into_array(rows)?;
        let field = match (base.data_type(), &args.args[key]) {
            (DataType::Struct(_), ColumnarValue::Scalar(name)) => named(&base, name)?,
            (_, name) => {
                let single = ScalarFunctionArgs {
                    args: vec![ColumnarValue::Array(Arc::clone(&base)), name.clone()],
                    arg_fields: vec![
                        Arc::clone(&args.arg_fields[0]),
                        Arc::clone(&args.arg_fields[key]),
                    ],
                    number_rows: rows,
                    return_field: Arc::clone(&args.return_field),
                    config_options: Arc::clone(&args.config_options),
                };
                self.theirs.invoke_with_args(single)?.into_array(rows)?
            }
        };
        with_nulls_of(&base, field)
    }
}

fn named(base: &ArrayRef, name: &ScalarValue) -> Result<ArrayRef> {
    let name = name.try_as_str().flatten().unwrap_or_default();
    let field = base.as_struct().column_by_name(name);
    let field = field
        .ok_or_else(|| DataFusionError::Execution(format!("the struct has no field {name:?}")))?;
    Ok(Arc::clone(field))
}

/// The child, null also where its parent is.
fn with_nulls_of(parent: &ArrayRef, child: ArrayRef) -> Result<ArrayRef> {
    match parent.nulls() {
        Some(nulls) if nulls.null_count() > 0 && *child.data_type() != DataType::Null => {
            let absent = BooleanArray::new(!nulls.inner(), None);
            Ok(nullif(&child, &absent)?)
        }
        _ => Ok(child),
    }
}

impl ScalarUDFImpl for FieldOf {
    fn name(&self) -> &str {
        self.theirs.name()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.theirs.schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.theirs.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.theirs.return_type(arg_types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.theirs.return_field_from_args(args)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(base) = args.args.first() else {
            return self.theirs.invoke_with_args(args);
        };
        let mut current = base.clone();
        for key in 1..args.args.len() {
            if current.data_type().is_null() {
                return Ok(ColumnarValue::Scalar(ScalarValue::Null));
            }
            current = ColumnarValue::Array(self.step(current, &args, key)?);
        }
        Ok(current)
    }

    /// DataFusion's flattens what is nested and looks into structs that are made in place: it knows
    /// its own function alone.
    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        let known = args.iter().cloned().map(as_theirs).collect::<Result<_>>()?;
        Ok(match self.theirs.simplify(known, info)? {
            ExprSimplifyResult::Original(_) => ExprSimplifyResult::Original(args),
            ExprSimplifyResult::Simplified(expr) => {
                ExprSimplifyResult::Simplified(expr.transform_up(|expr| Ok(as_ours(expr))).data()?)
            }
        })
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.theirs.coerce_types(arg_types)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.theirs.documentation()
    }

    fn placement(&self, args: &[ExpressionPlacement]) -> ExpressionPlacement {
        self.theirs.placement(args)
    }
}

fn as_theirs(expr: Expr) -> Result<Expr> {
    let replaced = expr.transform_up(|expr| {
        Ok(match expr {
            Expr::ScalarFunction(call) if call.func.inner().is::<FieldOf>() => {
                let theirs = Arc::new(ScalarUDF::new_from_impl(GetFieldFunc::new()));
                let call = ScalarFunction::new_udf(theirs, call.args);
                Transformed::yes(Expr::ScalarFunction(call))
            }
            other => Transformed::no(other),
        })
    });
    replaced.data()
}

/// Of this call alone, not of what is in its arguments.
fn as_ours(expr: Expr) -> Transformed<Expr> {
    match expr {
        Expr::ScalarFunction(call) if call.func.inner().is::<GetFieldFunc>() => {
            let ours = Arc::new(ScalarUDF::new_from_impl(FieldOf::default()));
            let call = ScalarFunction::new_udf(ours, call.args);
            Transformed::yes(Expr::ScalarFunction(call))
        }
        other => Transformed::no(other),
    }
}

/// Puts our `get_field` in the place of DataFusion's, which its planners use without asking.
#[derive(Debug)]
pub(crate) struct FieldsOfNullsAreNull;

impl FunctionRewrite for FieldsOfNullsAreNull {
    fn name(&self) -> &str {
        "fields_of_nulls_are_null"
    }

    fn rewrite(&self, expr: Expr, _: &DFSchema, _: &ConfigOptions) -> Result<Transformed<Expr>> {
        Ok(as_ours(expr))
    }
}
