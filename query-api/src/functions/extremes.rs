//! `min` and `max` of floats by group that do not depend on the order of the rows.
//!
//! DataFusion compares the floats of groups as numbers, so a NaN takes the place of whatever was
//! there and gives it up to whatever follows; and its groups begin with the least and the greatest
//! finite number, which stay where all values of a group are infinite. Without `GROUP BY` it has them
//! in total order. Here groups have, too: each float is a whole number of the same order on its way
//! through DataFusion's own accumulator of whole numbers.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use datafusion::arrow::datatypes::{
    DataType, Field, FieldRef, Float32Type, Float64Type, Int32Type, Int64Type,
};
use datafusion::common::{ScalarValue, internal_err};
use datafusion::error::Result;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, GroupsAccumulator,
    ReversedUDAF, SetMonotonicity, Signature, StatisticsArgs,
};

/// `min` or `max` of DataFusion, but for floats by group.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct ExactExtreme {
    pub function: Arc<AggregateUDF>,
}

impl ExactExtreme {
    fn inner(&self) -> &dyn AggregateUDFImpl {
        self.function.inner().as_ref()
    }
}

/// The whole numbers that floats become.
fn key_type(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::Float32 => Some(DataType::Int32),
        DataType::Float64 => Some(DataType::Int64),
        _ => None,
    }
}

/// Bits of a float as a number of the same order, and back: those of negative ones run the other way.
fn turned64(bits: i64) -> i64 {
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

fn turned32(bits: i32) -> i32 {
    bits ^ (((bits >> 31) as u32) >> 1) as i32
}

fn keys(floats: &dyn Array) -> Result<ArrayRef> {
    Ok(match floats.data_type() {
        DataType::Float32 => {
            let floats = floats.as_primitive::<Float32Type>();
            Arc::new(floats.unary::<_, Int32Type>(|x| turned32(x.to_bits().cast_signed())))
        }
        DataType::Float64 => {
            let floats = floats.as_primitive::<Float64Type>();
            Arc::new(floats.unary::<_, Int64Type>(|x| turned64(x.to_bits().cast_signed())))
        }
        other => return internal_err!("{other} is no float"),
    })
}

fn floats(keys: &dyn Array) -> Result<ArrayRef> {
    Ok(match keys.data_type() {
        DataType::Int32 => {
            let keys = keys.as_primitive::<Int32Type>();
            let float = |key| f32::from_bits(turned32(key).cast_unsigned());
            Arc::new(keys.unary::<_, Float32Type>(float))
        }
        DataType::Int64 => {
            let keys = keys.as_primitive::<Int64Type>();
            let float = |key| f64::from_bits(turned64(key).cast_unsigned());
            Arc::new(keys.unary::<_, Float64Type>(float))
        }
        other => return internal_err!("{other} is no key of a float"),
    })
}

/// Floats of groups, as whole numbers within.
struct Groups(Box<dyn GroupsAccumulator>);

impl Groups {
    fn keys(values: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
        values.iter().map(|values| keys(values)).collect()
    }

    fn floats(values: Vec<ArrayRef>) -> Result<Vec<ArrayRef>> {
        values.iter().map(|values| floats(values)).collect()
    }
}

impl GroupsAccumulator for Groups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        let keys = Self::keys(values)?;
        self.0
            .update_batch(&keys, group_indices, opt_filter, total_num_groups)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        floats(&self.0.evaluate(emit_to)?)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Self::floats(self.0.state(emit_to)?)
    }

    fn merge_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        total_num_groups: usize,
    ) -> Result<()> {
        let keys = Self::keys(values)?;
        self.0.merge_batch(&keys, group_indices, total_num_groups)
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        opt_filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        Self::floats(self.0.convert_to_state(&Self::keys(values)?, opt_filter)?)
    }

    fn size(&self) -> usize {
        self.0.size()
    }
}

impl AggregateUDFImpl for ExactExtreme {
    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs<'_>,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        let Some(key) = key_type(args.return_field.data_type()) else {
            return self.inner().create_groups_accumulator(args);
        };
        let return_field = Field::clone(&args.return_field).with_data_type(key);
        let args = AccumulatorArgs {
            return_field: Arc::new(return_field),
            ..args
        };
        let inner = self.inner().create_groups_accumulator(args)?;
        Ok(Box::new(Groups(inner)))
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        self.inner().accumulator(args)
    }

    fn create_sliding_accumulator(
        &self,
        args: AccumulatorArgs<'_>,
    ) -> Result<Box<dyn Accumulator>> {
        self.inner().create_sliding_accumulator(args)
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        self.inner().state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.inner().groups_accumulator_supported(args)
    }

    fn name(&self) -> &str {
        self.inner().name()
    }

    fn signature(&self) -> &Signature {
        self.inner().signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner().return_type(arg_types)
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner().coerce_types(arg_types)
    }

    fn is_descending(&self) -> Option<bool> {
        self.inner().is_descending()
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        self.inner().reverse_expr()
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner().order_sensitivity()
    }

    fn value_from_stats(&self, statistics: &StatisticsArgs<'_>) -> Option<ScalarValue> {
        self.inner().value_from_stats(statistics)
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.inner().set_monotonicity(data_type)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner().documentation()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Float32Array, Float64Array};

    use super::*;

    #[test]
    fn floats_are_numbers_of_the_same_order_and_back() {
        let all = [
            -f64::NAN,
            f64::NEG_INFINITY,
            f64::MIN,
            -1.0,
            -f64::MIN_POSITIVE,
            -0.0,
            0.0,
            f64::MIN_POSITIVE,
            1.0,
            f64::MAX,
            f64::INFINITY,
            f64::NAN,
        ];
        let wide = Float64Array::from(all.to_vec());
        let of_wide = keys(&wide).unwrap();
        let numbers = of_wide.as_primitive::<Int64Type>().values();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
        let back = floats(&of_wide).unwrap();
        let back = back.as_primitive::<Float64Type>().values().iter();
        assert!(back.zip(all).all(|(a, b)| a.to_bits() == b.to_bits()));
        let narrow: Vec<f32> = [f32::NEG_INFINITY, -1.5, -0.0, 0.0, 2.0, f32::NAN].to_vec();
        let of_narrow = keys(&Float32Array::from(narrow.clone())).unwrap();
        let numbers = of_narrow.as_primitive::<Int32Type>().values();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
        let back = floats(&of_narrow).unwrap();
        let back = back.as_primitive::<Float32Type>().values().iter();
        assert!(back.zip(narrow).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
}
