//! Functions of one value that rules put into plans; nobody calls them by name.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::ScalarValue;
use datafusion::common::utils::take_function_args;
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

use super::{keys, rounded, spans};

/// What is made of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Single {
    /// How long an interval or a difference of times is.
    Span,
    /// A float, whose zeros are one.
    OneZero,
    /// The whole number nearest to a float, of two the even one.
    Rounded,
}

impl Single {
    /// The function's value.
    pub(super) fn of(self, value: Expr) -> Expr {
        let signature = Signature::any(1, Volatility::Immutable);
        let function = OfOne {
            what: self,
            signature,
        };
        Expr::ScalarFunction(ScalarFunction {
            func: Arc::new(ScalarUDF::new_from_impl(function)),
            args: vec![value],
        })
    }

    fn map(self, values: &dyn Array) -> Result<ArrayRef> {
        match self {
            Self::Span => spans::nanos(values),
            Self::OneZero => keys::one_zero(values),
            Self::Rounded => rounded::rounded(values),
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct OfOne {
    what: Single,
    signature: Signature,
}

impl ScalarUDFImpl for OfOne {
    fn name(&self) -> &'static str {
        match self.what {
            Single::Span => "span",
            Single::OneZero => "one zero",
            Single::Rounded => "rounded",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        let [of] = take_function_args(self.name(), arg_types)?;
        Ok(match self.what {
            Single::Span => spans::SPAN,
            Single::OneZero | Single::Rounded => of.clone(),
        })
    }

    /// Null where the value is.
    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let [of] = take_function_args(self.name(), args.arg_fields)?;
        let data_type = self.return_type(&[of.data_type().clone()])?;
        let field = Field::new(self.name(), data_type, of.is_nullable());
        Ok(Arc::new(field))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [value] = take_function_args(self.name(), args.args)?;
        Ok(match value {
            ColumnarValue::Array(values) => ColumnarValue::Array(self.what.map(&values)?),
            ColumnarValue::Scalar(value) => {
                let values = self.what.map(&value.to_array()?)?;
                ColumnarValue::Scalar(ScalarValue::try_from_array(&values, 0)?)
            }
        })
    }
}
