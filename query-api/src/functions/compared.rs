//! Values that meet in an expression: those that it compares, and those of which one is its value.

use datafusion::logical_expr::{Expr, Operator};

/// Functions whose value is one of their arguments.
const CHOOSING: [&str; 7] = [
    "coalesce",
    "greatest",
    "ifnull",
    "least",
    "make_array",
    "nullif",
    "nvl",
];

/// The values that an expression compares with each other; none where it compares nothing.
pub(crate) fn values_compared(expr: &mut Expr) -> Vec<&mut Expr> {
    match expr {
        Expr::BinaryExpr(pair) if compares(pair.op) => vec![&mut pair.left, &mut pair.right],
        Expr::Between(of) => vec![&mut of.expr, &mut of.low, &mut of.high],
        Expr::InList(of) => {
            let mut values: Vec<&mut Expr> = vec![&mut of.expr];
            values.extend(&mut of.list);
            values
        }
        Expr::Case(case) => {
            let Some(of) = &mut case.expr else {
                return Vec::new();
            };
            let mut values: Vec<&mut Expr> = vec![of];
            values.extend(case.when_then_expr.iter_mut().map(|(when, _)| &mut **when));
            values
        }
        _ => Vec::new(),
    }
}

/// The values of which one is the expression's.
pub(super) fn values_united(expr: &mut Expr) -> Vec<&mut Expr> {
    match expr {
        Expr::Case(case) => {
            let arms = case.when_then_expr.iter_mut();
            let arms = arms.map(|(_, then)| &mut **then);
            arms.chain(case.else_expr.as_deref_mut()).collect()
        }
        Expr::ScalarFunction(call) => {
            let first = match call.name() {
                "nvl2" => 1,
                name if CHOOSING.contains(&name) => 0,
                _ => return Vec::new(),
            };
            call.args.iter_mut().skip(first).collect()
        }
        _ => Vec::new(),
    }
}

fn compares(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(
        op,
        Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom
    )
}

/// Changes a value where it stands.
pub(crate) fn change(place: &mut Expr, change: impl FnOnce(Expr) -> Expr) {
    *place = change(std::mem::take(place));
}
