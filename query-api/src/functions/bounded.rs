//! A function that says how large its value will be before it makes it.

use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef};
use datafusion::arrow::compute::concat;
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::config::ConfigOptions;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::preimage::PreimageResult;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ExpressionPlacement, ReturnFieldArgs, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature,
};

use super::growth::Growth;
use crate::error::QueryError;

/// The function as it is, but for the bound.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Bounded {
    pub function: Arc<ScalarUDF>,
    pub growth: Growth,
    /// Of the value for one batch.
    pub bytes_max: usize,
}

impl Bounded {
    fn inner(&self) -> &dyn ScalarUDFImpl {
        self.function.inner().as_ref()
    }

    fn too_large(&self, bytes: usize) -> DataFusionError {
        let reason = format!(
            "{}() would make at least {bytes} bytes at a time; {} is the most: ask for shorter \
             values or fewer rows at a time",
            self.name(),
            self.bytes_max
        );
        QueryError::Memory(reason).into()
    }

    /// Runs of rows whose values fit each. The bounds of texts that are replaced are far from what
    /// is made, so the runs are made one by one and added up.
    fn runs(&self, args: &ScalarFunctionArgs) -> Result<Vec<Range<usize>>> {
        let sizes = self.growth.of(&args.args)?;
        let rows = sizes.rows().unwrap_or(1).max(1);
        let (mut runs, mut from, mut bytes) = (Vec::new(), 0, 0_usize);
        for row in 0..rows {
            let size = sizes.get(row);
            if size > self.bytes_max {
                return Err(self.too_large(size));
            }
            bytes = bytes.saturating_add(size);
            if bytes > self.bytes_max {
                if self.growth.is_exact() {
                    return Err(self.too_large(bytes));
                }
                runs.push(from..row);
                (from, bytes) = (row, size);
            }
        }
        runs.push(from..rows);
        Ok(runs)
    }

    fn in_runs(&self, args: &ScalarFunctionArgs, runs: Vec<Range<usize>>) -> Result<ColumnarValue> {
        let mut made: Vec<ArrayRef> = Vec::with_capacity(runs.len());
        let mut bytes = 0_usize;
        for run in runs {
            let rows = run.len();
            let part = |arg: &ColumnarValue| match arg {
                ColumnarValue::Array(array) => {
                    ColumnarValue::Array(array.slice(run.start, run.len()))
                }
                ColumnarValue::Scalar(_) => arg.clone(),
            };
            let value = self.inner().invoke_with_args(ScalarFunctionArgs {
                args: args.args.iter().map(part).collect(),
                arg_fields: args.arg_fields.clone(),
                number_rows: rows,
                return_field: Arc::clone(&args.return_field),
                config_options: Arc::clone(&args.config_options),
            })?;
            let array = value.into_array(rows)?;
            bytes = bytes.saturating_add(array.get_array_memory_size());
            if bytes > self.bytes_max {
                return Err(self.too_large(bytes));
            }
            made.push(array);
        }
        let parts: Vec<&dyn Array> = made.iter().map(AsRef::as_ref).collect();
        Ok(ColumnarValue::Array(concat(&parts)?))
    }
}

/// Structs of several columns differ in what is noted at their fields, which the coercion of types
/// overlooks and the function does not.
fn of_one_type(mut args: ScalarFunctionArgs) -> Result<ScalarFunctionArgs> {
    if let DataType::List(item) = args.return_field.data_type() {
        let of = item.data_type();
        for arg in &mut args.args {
            if of.is_nested() && arg.data_type() != *of {
                *arg = arg.cast_to(of, None)?;
            }
        }
    }
    Ok(args)
}

impl ScalarUDFImpl for Bounded {
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let args = match self.name() {
            "make_array" => of_one_type(args)?,
            _ => args,
        };
        let runs = self.runs(&args)?;
        if runs.len() > 1 {
            return self.in_runs(&args, runs);
        }
        self.inner().invoke_with_args(args)
    }

    fn with_updated_config(&self, config: &ConfigOptions) -> Option<ScalarUDF> {
        let function = Arc::new(self.inner().with_updated_config(config)?);
        Some(ScalarUDF::new_from_impl(Self { function, ..*self }))
    }

    fn name(&self) -> &str {
        self.inner().name()
    }

    fn aliases(&self) -> &[String] {
        self.inner().aliases()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.inner().schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.inner().signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner().return_type(arg_types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.inner().return_field_from_args(args)
    }

    fn is_strict(&self) -> bool {
        self.inner().is_strict()
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        self.inner().simplify(args, info)
    }

    fn preimage(
        &self,
        args: &[Expr],
        literal: &Expr,
        info: &SimplifyContext,
    ) -> Result<PreimageResult> {
        self.inner().preimage(args, literal, info)
    }

    fn short_circuits(&self) -> bool {
        self.inner().short_circuits()
    }

    fn conditional_arguments<'a>(
        &self,
        args: &'a [Expr],
    ) -> Option<(Vec<&'a Expr>, Vec<&'a Expr>)> {
        self.inner().conditional_arguments(args)
    }

    fn evaluate_bounds(&self, input: &[&Interval]) -> Result<Interval> {
        self.inner().evaluate_bounds(input)
    }

    fn propagate_constraints(
        &self,
        interval: &Interval,
        inputs: &[&Interval],
    ) -> Result<Option<Vec<Interval>>> {
        self.inner().propagate_constraints(interval, inputs)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.inner().output_ordering(inputs)
    }

    fn preserves_lex_ordering(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.inner().preserves_lex_ordering(inputs)
    }

    fn strictly_order_preserving(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.inner().strictly_order_preserving(inputs)
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner().coerce_types(arg_types)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner().documentation()
    }

    fn placement(&self, args: &[ExpressionPlacement]) -> ExpressionPlacement {
        self.inner().placement(args)
    }
}
