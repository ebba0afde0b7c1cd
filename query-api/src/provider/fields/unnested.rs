//! `unnest` of structs: its columns have the nulls of the struct.
//!
//! DataFusion's takes the children as they are, and says that a required one is never null. So
//! each struct gets its nulls into its children, all of them optional, before it is unnested.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, StructArray};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields};
use datafusion::common::Column;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult};
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, Projection, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Unnest, Volatility,
};
use datafusion::optimizer::AnalyzerRule;

use super::with_nulls_of;

/// See the module.
#[derive(Debug)]
pub(crate) struct UnnestedFieldsOfNullsAreNull;

impl AnalyzerRule for UnnestedFieldsOfNullsAreNull {
    fn name(&self) -> &str {
        "unnested_fields_of_nulls_are_null"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let mut changed = false;
        let analyzed = plan.transform_up_with_subqueries(|plan| match plan {
            LogicalPlan::Unnest(unnest) if !unnest.struct_type_columns.is_empty() => {
                changed = true;
                Ok(Transformed::yes(with_nulls_inside(unnest)?))
            }
            // What stands above was told that required fields are never null.
            plan if changed => Ok(Transformed::yes(plan.recompute_schema()?)),
            plan => Ok(Transformed::no(plan)),
        });
        analyzed.data()
    }
}

fn with_nulls_inside(unnest: Unnest) -> Result<LogicalPlan> {
    let schema = Arc::clone(unnest.input.schema());
    let columns = schema.iter().enumerate().map(|(at, (table, field))| {
        let column = Expr::Column(Column::from((table, field)));
        if !unnest.struct_type_columns.contains(&at) {
            return column;
        }
        let inside = Arc::new(ScalarUDF::new_from_impl(NullsInside::new()));
        let inside = ScalarFunction::new_udf(inside, vec![column]);
        Expr::ScalarFunction(inside).alias_qualified(table.cloned(), field.name())
    });
    let input = Projection::try_new(columns.collect(), unnest.input)?;
    let input = Arc::new(LogicalPlan::Projection(input));
    let unnest = Unnest::try_new(input, unnest.exec_columns, unnest.options)?;
    Ok(LogicalPlan::Unnest(unnest))
}

/// A struct whose fields have its nulls.
#[derive(Debug, PartialEq, Eq, Hash)]
struct NullsInside {
    signature: Signature,
}

impl NullsInside {
    fn new() -> Self {
        Self {
            signature: Signature::any(1, Volatility::Immutable),
        }
    }
}

impl ScalarUDFImpl for NullsInside {
    fn name(&self) -> &str {
        "nulls_inside"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(match arg_types {
            [DataType::Struct(fields)] => DataType::Struct(optional(fields)),
            [other, ..] => other.clone(),
            [] => DataType::Null,
        })
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let types = args
            .arg_fields
            .iter()
            .map(|field| field.data_type().clone());
        let data_type = self.return_type(&types.collect::<Vec<_>>())?;
        Ok(Arc::new(Field::new(self.name(), data_type, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let whole = &arrays[0];
        let Some(array) = whole.as_struct_opt() else {
            return Ok(ColumnarValue::Array(Arc::clone(whole)));
        };
        let fields = array.columns().iter();
        let fields: Vec<ArrayRef> = fields
            .map(|field| with_nulls_of(whole, Arc::clone(field)))
            .collect::<Result<_>>()?;
        let nulls = array.nulls().cloned();
        let inside = StructArray::try_new(optional(array.fields()), fields, nulls)?;
        Ok(ColumnarValue::Array(Arc::new(inside)))
    }
}

fn optional(fields: &Fields) -> Fields {
    let fields = fields.iter();
    fields
        .map(|field| field.as_ref().clone().with_nullable(true))
        .collect()
}
