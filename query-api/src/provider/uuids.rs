//! Uuids in any case: what a column of uuids is compared with gets the form that the column has.
//!
//! Columns hold uuids as text in lower case, in which alone DataFusion would find them; lookups by
//! key take any case. A text that is no uuid stays as it is: it equals none.

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ExprSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{Between, InList};
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use tidelake_schema::Primitive;

use crate::table::shape::{DECLARED_TYPE, canonical_uuid};

/// See the module.
#[derive(Debug)]
pub(crate) struct UuidsInAnyCase;

impl FunctionRewrite for UuidsInAnyCase {
    fn name(&self) -> &str {
        "uuids_in_any_case"
    }

    fn rewrite(
        &self,
        mut expr: Expr,
        schema: &DFSchema,
        _: &ConfigOptions,
    ) -> Result<Transformed<Expr>> {
        let mut changed = false;
        let mut lower = |expr: &mut Expr| changed |= to_lower(expr);
        match &mut expr {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if compares(*op) => {
                if is_uuid(left, schema) {
                    lower(right);
                } else if is_uuid(right, schema) {
                    lower(left);
                }
            }
            Expr::InList(InList { expr, list, .. }) if is_uuid(expr, schema) => {
                list.iter_mut().for_each(lower);
            }
            Expr::Between(Between {
                expr, low, high, ..
            }) if is_uuid(expr, schema) => {
                lower(low);
                lower(high);
            }
            _ => {}
        }
        Ok(match changed {
            true => Transformed::yes(expr),
            false => Transformed::no(expr),
        })
    }
}

fn compares(operator: Operator) -> bool {
    use Operator as O;
    matches!(
        operator,
        O::Eq
            | O::NotEq
            | O::Lt
            | O::LtEq
            | O::Gt
            | O::GtEq
            | O::IsDistinctFrom
            | O::IsNotDistinctFrom
    )
}

fn is_uuid(expr: &Expr, schema: &DFSchema) -> bool {
    let field = match expr {
        Expr::Column(column) => schema.field_from_column(column).ok(),
        Expr::OuterReferenceColumn(field, _) => Some(field),
        _ => None,
    };
    let declared = field.and_then(|field| field.metadata().get(DECLARED_TYPE));
    declared.is_some_and(|declared| *declared == Primitive::Uuid.to_string())
}

/// Puts a literal, cast or not, into lower case where it is a uuid; true where that changed it.
fn to_lower(expr: &mut Expr) -> bool {
    match expr {
        Expr::Cast(cast) => to_lower(&mut cast.expr),
        Expr::TryCast(cast) => to_lower(&mut cast.expr),
        Expr::Literal(
            ScalarValue::Utf8(Some(text))
            | ScalarValue::LargeUtf8(Some(text))
            | ScalarValue::Utf8View(Some(text)),
            _,
        ) => match canonical_uuid(text) {
            Some(lower) if lower != *text => {
                *text = lower;
                true
            }
            _ => false,
        },
        _ => false,
    }
}
