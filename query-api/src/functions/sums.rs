//! `sum` that says so when a total does not fit.
//!
//! DataFusion's `sum` of whole numbers and decimals wraps around: two rows of 9223372036854775807
//! sum up to -2. Ours adds whole numbers up in 128 bits, where no number of rows overflows, and looks
//! when the total is asked for; so an order of rows that leaves the range on its way is no error.
//! Decimals are added in 128 bits too, with a check at each step.

use std::collections::HashMap;
use std::mem::size_of_val;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Decimal128Array};
use datafusion::arrow::datatypes::{
    ArrowPrimitiveType, DataType, Decimal128Type, Field, FieldRef, Int64Type, UInt64Type,
};
use datafusion::arrow::error::ArrowError;
use datafusion::common::utils::take_function_args;
use datafusion::common::{ScalarValue, internal_err};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, Expr, GroupsAccumulator,
    Operator, ReversedUDAF, SetMonotonicity, Signature, StatisticsArgs,
};

/// Digits of a total on its way: all that 128 bits have room for.
const PRECISION: u8 = 38;

/// `sum` of DataFusion, but for how it adds up.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct ExactSum {
    pub function: Arc<AggregateUDF>,
}

/// What a total becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Total {
    Int64,
    UInt64,
    Decimal { precision: u8, scale: i8 },
}

impl Total {
    /// None where DataFusion's own sum is exact, or no number.
    fn of(data_type: &DataType) -> Option<Self> {
        Some(match data_type {
            DataType::Int64 => Self::Int64,
            DataType::UInt64 => Self::UInt64,
            DataType::Decimal128(precision, scale) => Self::Decimal {
                precision: *precision,
                scale: *scale,
            },
            _ => return None,
        })
    }

    fn data_type(self) -> DataType {
        match self {
            Self::Int64 => DataType::Int64,
            Self::UInt64 => DataType::UInt64,
            Self::Decimal { precision, scale } => DataType::Decimal128(precision, scale),
        }
    }

    /// Of totals between two steps.
    fn state_type(self) -> DataType {
        let scale = match self {
            Self::Decimal { scale, .. } => scale,
            _ => 0,
        };
        DataType::Decimal128(PRECISION, scale)
    }

    fn checked(self, total: i128) -> Result<i128> {
        let fits = match self {
            Self::Int64 => i64::try_from(total).is_ok(),
            Self::UInt64 => u64::try_from(total).is_ok(),
            Self::Decimal { precision, .. } => 10_u128
                .checked_pow(u32::from(precision))
                .is_none_or(|beyond| total.unsigned_abs() < beyond),
        };
        fits.then_some(total).ok_or_else(|| self.overflow())
    }

    fn overflow(self) -> DataFusionError {
        let of = match self {
            Self::Int64 => "bigint".to_owned(),
            Self::UInt64 => "bigint unsigned".to_owned(),
            Self::Decimal { precision, scale } => format!("decimal({precision}, {scale})"),
        };
        ArrowError::ArithmeticOverflow(format!(
            "sum() does not fit in {of}: cast what is summed up to a wider decimal, or to double"
        ))
        .into()
    }

    fn scalar(self, total: Option<i128>) -> Result<ScalarValue> {
        let total = total.map(|total| self.checked(total)).transpose()?;
        Ok(match self {
            // They were checked.
            Self::Int64 => ScalarValue::Int64(total.and_then(|total| i64::try_from(total).ok())),
            Self::UInt64 => ScalarValue::UInt64(total.and_then(|total| u64::try_from(total).ok())),
            Self::Decimal { precision, scale } => ScalarValue::Decimal128(total, precision, scale),
        })
    }

    fn array(self, totals: Vec<Option<i128>>) -> Result<ArrayRef> {
        let checked = totals
            .into_iter()
            .map(|total| total.map(|total| self.checked(total)).transpose());
        let checked: Vec<Option<i128>> = checked.collect::<Result<_>>()?;
        let int = |total: i128| i64::try_from(total).unwrap_or_default();
        let uint = |total: i128| u64::try_from(total).unwrap_or_default();
        Ok(match self {
            Self::Int64 => {
                let totals = checked.into_iter().map(|total| total.map(int));
                Arc::new(totals.collect::<datafusion::arrow::array::Int64Array>())
            }
            Self::UInt64 => {
                let totals = checked.into_iter().map(|total| total.map(uint));
                Arc::new(totals.collect::<datafusion::arrow::array::UInt64Array>())
            }
            Self::Decimal { .. } => {
                let totals: Decimal128Array = checked.into_iter().collect();
                Arc::new(totals.with_data_type(self.data_type()))
            }
        })
    }
}

/// The total of a batch's values, none where all are null.
fn total(values: &dyn Array) -> Result<Option<i128>> {
    if values.null_count() == values.len() {
        return Ok(None);
    }
    match values.data_type() {
        DataType::Int64 => Ok(runs::<Int64Type>(values).map(signed).sum::<i128>().into()),
        DataType::UInt64 => {
            let runs = runs::<UInt64Type>(values);
            Ok(runs
                .flatten()
                .map(|value| i128::from(*value))
                .sum::<i128>()
                .into())
        }
        DataType::Decimal128(..) => {
            let mut values = runs::<Decimal128Type>(values).flatten();
            let total = values.try_fold(0_i128, |total, value| total.checked_add(*value));
            total.map(Some).ok_or_else(beyond)
        }
        other => internal_err!("sum() of {other}"),
    }
}

/// Values that are not null.
fn runs<T: ArrowPrimitiveType>(values: &dyn Array) -> impl Iterator<Item = &[T::Native]> {
    let values = values.as_primitive::<T>();
    let all: &[T::Native] = values.values();
    let runs: Box<dyn Iterator<Item = (usize, usize)>> = match values.nulls() {
        Some(nulls) => Box::new(nulls.valid_slices()),
        None => Box::new(std::iter::once((0, all.len()))),
    };
    runs.map(|(from, to)| &all[from..to])
}

/// Both halves of the numbers apart: sums of 64 bits, which the processor adds several of at a time.
fn signed(values: &[i64]) -> i128 {
    /// No half's sum leaves its 64 bits within so many.
    const AT_ONCE: usize = 1 << 30;
    let sum = |values: &[i64]| {
        let high: i64 = values.iter().map(|value| value >> 32).sum();
        let low: i64 = values.iter().map(|value| value & 0xffff_ffff).sum();
        (i128::from(high) << 32) + i128::from(low)
    };
    values.chunks(AT_ONCE).map(sum).sum()
}

fn beyond() -> DataFusionError {
    Total::Decimal {
        precision: PRECISION,
        scale: 0,
    }
    .overflow()
}

/// A running total; rows may leave it again.
#[derive(Debug)]
struct Running {
    of: Total,
    total: i128,
    values: u64,
}

impl Running {
    fn new(of: Total) -> Self {
        let (total, values) = (0, 0);
        Self { of, total, values }
    }

    fn add(&mut self, value: Option<i128>) -> Result<()> {
        if let Some(value) = value {
            self.total = self.total.checked_add(value).ok_or_else(beyond)?;
        }
        Ok(())
    }

    fn now(&self) -> Option<i128> {
        (self.values > 0).then_some(self.total)
    }
}

fn valid(values: &dyn Array) -> u64 {
    (values.len() - values.null_count()) as u64
}

impl Accumulator for Running {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let [values] = take_function_args("sum", values)?;
        self.values += valid(values);
        self.add(total(values)?)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let [values] = take_function_args("sum", values)?;
        self.values -= valid(values);
        self.add(total(values)?.map(|total| -total))
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let DataType::Decimal128(precision, scale) = self.of.state_type() else {
            return internal_err!("a total on its way is a decimal");
        };
        let now = self.now();
        Ok(vec![ScalarValue::Decimal128(now, precision, scale)])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.of.scalar(self.now())
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}

/// Each different value once: how often it is there, and their total.
#[derive(Debug)]
struct Distinct {
    of: Total,
    counts: HashMap<i128, u64>,
    total: i128,
}

impl Distinct {
    fn each(
        &mut self,
        values: &dyn Array,
        mut visit: impl FnMut(&mut Self, i128) -> Result<()>,
    ) -> Result<()> {
        match values.data_type() {
            DataType::Int64 => runs::<Int64Type>(values)
                .flatten()
                .try_for_each(|value| visit(self, i128::from(*value))),
            DataType::UInt64 => runs::<UInt64Type>(values)
                .flatten()
                .try_for_each(|value| visit(self, i128::from(*value))),
            DataType::Decimal128(..) => runs::<Decimal128Type>(values)
                .flatten()
                .try_for_each(|value| visit(self, *value)),
            other => internal_err!("sum() of {other}"),
        }
    }

    fn enter(&mut self, value: i128) -> Result<()> {
        let count = self.counts.entry(value).or_insert(0);
        *count += 1;
        if *count == 1 {
            self.total = self.total.checked_add(value).ok_or_else(beyond)?;
        }
        Ok(())
    }

    fn leave(&mut self, value: i128) -> Result<()> {
        let Some(count) = self.counts.get_mut(&value) else {
            return internal_err!("a value leaves a sum that it is not in");
        };
        *count -= 1;
        if *count == 0 {
            self.counts.remove(&value);
            self.total = self.total.checked_sub(value).ok_or_else(beyond)?;
        }
        Ok(())
    }
}

impl Accumulator for Distinct {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let [values] = take_function_args("sum", values)?;
        self.each(values, Self::enter)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let [values] = take_function_args("sum", values)?;
        self.each(values, Self::leave)
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let [lists] = take_function_args("sum", states)?;
        for values in lists.as_list::<i32>().iter().flatten() {
            self.each(&values, Self::enter)?;
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let values: Vec<ScalarValue> = self
            .counts
            .keys()
            .map(|value| self.of.scalar(Some(*value)))
            .collect::<Result<_>>()?;
        let list = ScalarValue::new_list_nullable(&values, &self.of.data_type());
        Ok(vec![ScalarValue::List(list)])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let some = !self.counts.is_empty();
        self.of.scalar(some.then_some(self.total))
    }

    fn size(&self) -> usize {
        let entry = size_of::<i128>() + size_of::<u64>() + 1;
        size_of_val(self) + self.counts.capacity() * entry
    }
}

/// The totals of groups.
#[derive(Debug)]
struct Groups {
    of: Total,
    totals: Vec<i128>,
    /// Groups with a value that is not null.
    seen: Vec<bool>,
}

impl Groups {
    fn add<T>(
        &mut self,
        values: &dyn Array,
        groups: &[usize],
        filter: Option<&BooleanArray>,
        wide: impl Fn(T::Native) -> i128,
    ) -> Result<()>
    where
        T: ArrowPrimitiveType,
    {
        let values = values.as_primitive::<T>();
        let mut fits = true;
        let mut add = |row: usize, value: T::Native| {
            let group = groups[row];
            let (total, over) = self.totals[group].overflowing_add(wide(value));
            self.totals[group] = total;
            self.seen[group] = true;
            fits &= !over;
        };
        if values.null_count() == 0 && filter.is_none() {
            for (row, value) in values.values().iter().enumerate() {
                add(row, *value);
            }
        } else {
            let counts = |row: usize| filter.is_none_or(|f| f.is_valid(row) && f.value(row));
            for (row, value) in values.iter().enumerate() {
                if let Some(value) = value
                    && counts(row)
                {
                    add(row, value);
                }
            }
        }
        fits.then_some(()).ok_or_else(beyond)
    }

    fn taken(&mut self, emit: EmitTo) -> Vec<Option<i128>> {
        let totals = emit.take_needed(&mut self.totals);
        let seen = emit.take_needed(&mut self.seen);
        let totals = totals.into_iter().zip(seen);
        totals.map(|(total, seen)| seen.then_some(total)).collect()
    }
}

impl GroupsAccumulator for Groups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        groups_total: usize,
    ) -> Result<()> {
        let [values] = take_function_args("sum", values)?;
        self.totals.resize(groups_total, 0);
        self.seen.resize(groups_total, false);
        match values.data_type() {
            DataType::Int64 => self.add::<Int64Type>(values, groups, filter, i128::from),
            DataType::UInt64 => self.add::<UInt64Type>(values, groups, filter, i128::from),
            DataType::Decimal128(..) => {
                self.add::<Decimal128Type>(values, groups, filter, |value| value)
            }
            other => internal_err!("sum() of {other}"),
        }
    }

    fn merge_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        groups_total: usize,
    ) -> Result<()> {
        self.update_batch(values, groups, None, groups_total)
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        let totals = self.taken(emit);
        self.of.array(totals)
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        let totals: Decimal128Array = self.taken(emit).into_iter().collect();
        Ok(vec![Arc::new(totals.with_data_type(self.of.state_type()))])
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let [values] = take_function_args("sum", values)?;
        let wide = |row: usize| match values.data_type() {
            DataType::Int64 => Ok(i128::from(values.as_primitive::<Int64Type>().value(row))),
            DataType::UInt64 => Ok(i128::from(values.as_primitive::<UInt64Type>().value(row))),
            DataType::Decimal128(..) => Ok(values.as_primitive::<Decimal128Type>().value(row)),
            other => internal_err!("sum() of {other}"),
        };
        let counts = |row: usize| {
            values.is_valid(row) && filter.is_none_or(|f| f.is_valid(row) && f.value(row))
        };
        let rows = (0..values.len()).map(|row| counts(row).then(|| wide(row)).transpose());
        let rows: Decimal128Array = rows.collect::<Result<_>>()?;
        Ok(vec![Arc::new(rows.with_data_type(self.of.state_type()))])
    }

    fn size(&self) -> usize {
        self.totals.capacity() * size_of::<i128>() + self.seen.capacity()
    }
}

impl ExactSum {
    fn inner(&self) -> &dyn AggregateUDFImpl {
        self.function.inner().as_ref()
    }
}

impl AggregateUDFImpl for ExactSum {
    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        match Total::of(args.return_field.data_type()) {
            Some(of) if args.is_distinct => Ok(Box::new(Distinct {
                of,
                counts: HashMap::new(),
                total: 0,
            })),
            Some(of) => Ok(Box::new(Running::new(of))),
            None => self.inner().accumulator(args),
        }
    }

    fn create_sliding_accumulator(
        &self,
        args: AccumulatorArgs<'_>,
    ) -> Result<Box<dyn Accumulator>> {
        match Total::of(args.return_field.data_type()) {
            // Both let rows leave again.
            Some(_) => self.accumulator(args),
            None => self.inner().create_sliding_accumulator(args),
        }
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs<'_>,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        match Total::of(args.return_field.data_type()) {
            Some(of) => Ok(Box::new(Groups {
                of,
                totals: Vec::new(),
                seen: Vec::new(),
            })),
            None => self.inner().create_groups_accumulator(args),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        match Total::of(args.return_field.data_type()) {
            Some(of) if !args.is_distinct => {
                let name = format_state_name(args.name, "sum");
                Ok(vec![Arc::new(Field::new(name, of.state_type(), true))])
            }
            _ => self.inner().state_fields(args),
        }
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

    fn reverse_expr(&self) -> ReversedUDAF {
        self.inner().reverse_expr()
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner().order_sensitivity()
    }

    /// Never `sum(x) + k * count(x)` for `sum(x + k)`: it may overflow, round and be called otherwise.
    fn simplify_expr_op_literal(
        &self,
        _: &AggregateFunction,
        _: &Expr,
        _: Operator,
        _: &Expr,
        _: bool,
    ) -> Result<Option<Expr>> {
        Ok(None)
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
