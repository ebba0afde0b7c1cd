//! Filters that name whole primary keys: `pk = …`, `pk IN (…)`, all key columns bound by values.

use std::sync::Arc;

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

use crate::table::keys::TableKeys;

/// Keys beyond this are cheaper to scan for.
const KEYS_MAX: usize = 10_000;

/// The keys that rows must have to pass the filters, as key columns; `None` where the filters leave a
/// key column open. Values that no row can have are left out.
pub(super) fn keys(keys: &TableKeys, filters: &[Expr]) -> Result<Option<RecordBatch>> {
    let schema = keys.schema();
    let mut bound: Vec<Option<Vec<ScalarValue>>> = vec![None; schema.fields().len()];
    for filter in filters.iter().flat_map(conjuncts) {
        let Some((column, values)) = values_of(filter) else {
            continue;
        };
        let Ok(place) = schema.index_of(column) else {
            continue;
        };
        // One list is enough; the others are checked above the scan.
        if bound[place]
            .as_ref()
            .is_some_and(|known| known.len() <= values.len())
        {
            continue;
        }
        let data_type = schema.field(place).data_type();
        let cast = values.into_iter().map(|value| exact(value, data_type));
        if let Some(cast) = cast.collect::<Option<Vec<_>>>() {
            let possible = cast.into_iter();
            let possible = possible.filter_map(|value| keys.possible(place, value));
            bound[place] = Some(possible.collect());
        }
    }
    match bound.into_iter().collect::<Option<Vec<_>>>() {
        Some(bound) => combined(schema, &bound),
        None => Ok(None),
    }
}

/// Every combination of the values of each key column; `None` where there are too many.
pub(crate) fn combined(
    schema: &SchemaRef,
    bound: &[Vec<ScalarValue>],
) -> Result<Option<RecordBatch>> {
    let count = bound
        .iter()
        .try_fold(1usize, |count, values| count.checked_mul(values.len()));
    let Some(count) = count.filter(|count| *count <= KEYS_MAX) else {
        return Ok(None);
    };
    if count == 0 {
        return Ok(Some(RecordBatch::new_empty(Arc::clone(schema))));
    }
    // Every combination: the last column changes fastest.
    let mut each = count;
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(bound.len());
    for values in bound {
        each /= values.len();
        let all = (0..count).map(|at| values[at / each % values.len()].clone());
        columns.push(ScalarValue::iter_to_array(all)?);
    }
    Ok(Some(RecordBatch::try_new(Arc::clone(schema), columns)?))
}

fn conjuncts(filter: &Expr) -> Vec<&Expr> {
    datafusion::logical_expr::utils::split_conjunction(filter)
}

/// A column and the values that it must have one of.
fn values_of(filter: &Expr) -> Option<(&str, Vec<ScalarValue>)> {
    match filter {
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::Eq,
            right,
        }) => match (left.as_ref(), right.as_ref()) {
            (Expr::Column(column), Expr::Literal(value, _))
            | (Expr::Literal(value, _), Expr::Column(column)) => {
                Some((column.name(), vec![value.clone()]))
            }
            _ => None,
        },
        // DataFusion makes short lists a disjunction.
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::Or,
            right,
        }) => {
            let (column, mut values) = values_of(left)?;
            let (other, more) = values_of(right)?;
            values.extend(more);
            (column == other).then_some((column, values))
        }
        Expr::InList(list) if !list.negated => {
            let Expr::Column(column) = list.expr.as_ref() else {
                return None;
            };
            let values = list.list.iter().map(|value| match value {
                Expr::Literal(value, _) => Some(value.clone()),
                _ => None,
            });
            Some((column.name(), values.collect::<Option<_>>()?))
        }
        _ => None,
    }
}

/// The value as the key column has it; `None` where it would not be the same value.
fn exact(
    value: ScalarValue,
    data_type: &datafusion::arrow::datatypes::DataType,
) -> Option<ScalarValue> {
    if value.is_null() {
        return None;
    }
    let from = value.data_type();
    let cast = value
        .cast_to(data_type)
        .ok()
        .filter(|cast| !cast.is_null())?;
    (cast.cast_to(&from).ok()? == value).then_some(cast)
}
