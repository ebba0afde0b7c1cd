//! Zeros of both signs in lists and cases: `x IN (0.0, 3.0)` and `CASE x WHEN 0.0 …` are to hold for
//! `-0.0`, as `x = 0.0` does.
//!
//! DataFusion looks values of a list and of a case up by their bits. So a list that has a zero and is
//! compared with floats gets the other one, too; what is no constant, and a case, become `=`.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{Case, InList};
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::{Expr, ExprSchemable, lit};

/// See the module.
#[derive(Debug)]
pub(crate) struct ZerosOfBothSigns;

impl FunctionRewrite for ZerosOfBothSigns {
    fn name(&self) -> &str {
        "zeros_of_both_signs"
    }

    fn rewrite(
        &self,
        expr: Expr,
        schema: &DFSchema,
        _: &ConfigOptions,
    ) -> Result<Transformed<Expr>> {
        let is_float = |expr: &Expr| expr.get_type(schema).is_ok_and(|of| of.is_floating());
        // It is computed once for each arm then.
        let is_stable = |expr: &Expr| is_float(expr) && !expr.is_volatile();
        Ok(match expr {
            Expr::InList(list) if is_float(&list.expr) => in_list(list),
            Expr::Case(case) if case.expr.as_deref().is_some_and(is_stable) => {
                Transformed::yes(Expr::Case(searched(case)))
            }
            other => Transformed::no(other),
        })
    }
}

/// What is computed is compared by `=`; among constants zeros come in pairs.
fn in_list(list: InList) -> Transformed<Expr> {
    let InList {
        expr,
        list,
        negated,
    } = list;
    let (mut constants, computed): (Vec<_>, Vec<_>) = list.into_iter().partition(is_constant);
    let has_zero = constants.iter().any(is_zero);
    if has_zero {
        constants.extend([lit(0.0), lit(-0.0)]);
    }
    if computed.is_empty() || expr.is_volatile() {
        constants.extend(computed);
        let list = Expr::InList(InList::new(expr, constants, negated));
        return match has_zero {
            true => Transformed::yes(list),
            false => Transformed::no(list),
        };
    }
    let among =
        (!constants.is_empty()).then(|| Expr::InList(InList::new(expr.clone(), constants, false)));
    let equal = computed.into_iter().map(|other| (*expr).clone().eq(other));
    let any = among.into_iter().chain(equal).reduce(Expr::or);
    // There is one that is computed.
    let any = any.unwrap_or_else(|| lit(false));
    Transformed::yes(if negated { !any } else { any })
}

/// `CASE x WHEN y …` as `CASE WHEN x = y …`.
fn searched(case: Case) -> Case {
    let Some(of) = case.expr else {
        return Case { expr: None, ..case };
    };
    let arms = case.when_then_expr.into_iter();
    let arms = arms.map(|(when, then)| (Box::new((*of).clone().eq(*when)), then));
    Case::new(None, arms.collect(), case.else_expr)
}

fn is_constant(expr: &Expr) -> bool {
    match expr {
        Expr::Negative(inner) => is_constant(inner),
        Expr::Cast(cast) => is_constant(&cast.expr),
        Expr::Literal(..) => true,
        _ => false,
    }
}

/// A literal that is zero as a float, whatever its type and sign.
fn is_zero(expr: &Expr) -> bool {
    match expr {
        Expr::Negative(inner) => is_zero(inner),
        Expr::Cast(cast) => is_zero(&cast.expr),
        Expr::Literal(value, _) => matches!(
            value.cast_to(&DataType::Float64),
            Ok(ScalarValue::Float64(Some(value))) if value == 0.0
        ),
        _ => false,
    }
}
