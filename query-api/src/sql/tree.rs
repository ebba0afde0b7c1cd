//! A parsed statement whose tree is flat: chains are balanced, long `OR`s are lists, depth and size
//! are bounded.
//!
//! ```text
//!        OR                       OR                  a = 1 OR a = 2 OR … ──► a IN (1, 2, …)
//!       OR  d        ──►       OR    OR
//!      OR c                   a  b  c  d
//!     a b
//! ```
//! Invariant: after [`flatten`] no walk of the tree is deeper than [`DEPTH_MAX`] expressions. Only
//! operators that are associative are balanced (`OR`, `AND`, `UNION [ALL]`): sums of floats and of
//! integers that may overflow keep the order in which they were written, and so does `||`, which
//! appends to arrays.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    AccessExpr, BinaryOperator, Expr, FunctionArguments, Ident, Query, Select, SetExpr,
    SetOperator, SetQuantifier, UnaryOperator, Value, Values, VisitMut, VisitorMut,
};

use super::limits::too_large;
use crate::error::QueryError;

/// Expressions within each other.
pub(super) const DEPTH_MAX: usize = 300;
/// Queries within each other: copying or dropping one more takes 20 KB of stack in a debug build.
const QUERIES_DEPTH_MAX: usize = 40;
/// Expressions of a statement as it is written.
const EXPRESSIONS_MAX: usize = 250_000;
/// `UNION`s, `EXCEPT`s and `INTERSECT`s of one query.
const SET_OPERATIONS_MAX: usize = 1_000;
/// Those of them that can't be balanced.
const SET_DEPTH_MAX: usize = 100;
/// Tables of one `FROM`.
const JOINS_MAX: usize = 256;
/// Chains up to this length stay as they are; what was balanced is never longer.
const CHAIN_KEPT: usize = 20;
/// Equalities of one column from which on they become a list.
const LIST_MIN: usize = 16;
/// Integers of more digits may not all have the same type.
const LIST_DIGITS_MAX: usize = 18;

/// Balances the statement's chains and checks its depth and size.
pub(super) fn flatten(statement: &mut Statement) -> Result<(), QueryError> {
    match statement {
        Statement::Statement(inner) => match inner.visit(&mut Flatten::default()) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(error) => Err(error),
        },
        Statement::Explain(explain) => flatten(&mut explain.statement),
        // Nothing of these is read but their names, and they are refused.
        Statement::CopyTo(_) | Statement::CreateExternalTable(_) | Statement::Reset(_) => Ok(()),
    }
}

#[derive(Debug, Default)]
struct Flatten {
    queries: usize,
    depth: usize,
    expressions: usize,
}

impl VisitorMut for Flatten {
    type Break = QueryError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<QueryError> {
        self.queries += 1;
        let instead = "name inner queries in one WITH list";
        at_most(
            "queries within each other",
            self.queries,
            QUERIES_DEPTH_MAX,
            instead,
        )?;
        let mut operations = 0;
        match balance_set(&mut query.body, &mut operations) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<QueryError> {
        self.queries -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<QueryError> {
        let joins = select.from.iter().map(|table| 1 + table.joins.len());
        at_most(
            "tables in one FROM",
            joins.sum(),
            JOINS_MAX,
            "join in steps",
        )
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<QueryError> {
        balance(expr);
        name_of_function(expr);
        self.expressions += 1;
        let instead = "read long lists from a table instead";
        at_most("expressions", self.expressions, EXPRESSIONS_MAX, instead)?;
        self.depth += levels(expr);
        at_most(
            "expressions within each other",
            self.depth,
            DEPTH_MAX,
            "put parentheses around parts of a long chain, or compute it in steps",
        )
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<QueryError> {
        self.depth -= levels(expr);
        ControlFlow::Continue(())
    }
}

fn at_most(what: &str, found: usize, max: usize, instead: &str) -> ControlFlow<QueryError> {
    match found <= max {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(too_large(what, found, max, instead)),
    }
}

/// How many levels of a plan's expression this one becomes.
fn levels(expr: &Expr) -> usize {
    match expr {
        Expr::CompoundFieldAccess { access_chain, .. } => 1 + access_chain.len(),
        Expr::CompoundIdentifier(parts) => parts.len(),
        _ => 1,
    }
}

/// `user` is a function to the parser, which the planner does not have; here it is a name, as it is
/// a good one for a table or column.
fn name_of_function(expr: &mut Expr) {
    let words = |expr: &Expr| match expr {
        Expr::Function(function) if function.args == FunctionArguments::None => {
            let parts = function.name.0.iter();
            let parts: Option<Vec<_>> = parts.map(|part| part.as_ident().cloned()).collect();
            let is_user = |word: &Ident| word.value.eq_ignore_ascii_case("user");
            parts.filter(|parts| parts.last().is_some_and(is_user))
        }
        _ => None,
    };
    let word = |expr: &Expr| words(expr).filter(|words| words.len() == 1)?.pop();
    if let Some(mut parts) = words(expr) {
        *expr = match parts.len() {
            1 => Expr::Identifier(parts.remove(0)),
            _ => Expr::CompoundIdentifier(parts),
        };
        return;
    }
    let Expr::CompoundFieldAccess { root, access_chain } = expr else {
        return;
    };
    if let Some(name) = word(root) {
        **root = Expr::Identifier(name);
    }
    for access in access_chain.iter_mut() {
        if let AccessExpr::Dot(field) = access
            && let Some(name) = word(field)
        {
            *field = Expr::Identifier(name);
        }
    }
    let first = match root.as_ref() {
        Expr::Identifier(name) => vec![name.clone()],
        Expr::CompoundIdentifier(parts) => parts.clone(),
        _ => return,
    };
    let field = |access: &AccessExpr| match access {
        AccessExpr::Dot(Expr::Identifier(field)) => Some(field.clone()),
        _ => None,
    };
    let fields: Option<Vec<_>> = access_chain.iter().map(field).collect();
    if let Some(fields) = fields {
        let parts = first.into_iter().chain(fields);
        *expr = Expr::CompoundIdentifier(parts.collect());
    }
}

/// Balances a chain of one associative operator.
fn balance(expr: &mut Expr) {
    let Some(operator) = associative(expr) else {
        return;
    };
    let (mut length, mut left) = (1, &*expr);
    while let Expr::BinaryOp { left: next, op, .. } = left
        && *op == operator
    {
        length += 1;
        left = next;
    }
    if length <= CHAIN_KEPT {
        return;
    }
    let mut operands = Vec::with_capacity(length);
    let mut rest = take(expr);
    loop {
        match rest {
            Expr::BinaryOp { left, op, right } if op == operator => {
                operands.push(*right);
                rest = *left;
            }
            first => {
                operands.push(first);
                break;
            }
        }
    }
    operands.reverse();
    if operator == BinaryOperator::Or {
        operands = listed(operands);
    }
    let pair = |left, right| Expr::BinaryOp {
        left: Box::new(left),
        op: operator.clone(),
        right: Box::new(right),
    };
    if let Some(balanced) = tree_of(operands, &pair) {
        *expr = balanced;
    }
}

fn associative(expr: &Expr) -> Option<BinaryOperator> {
    use BinaryOperator::{And, Or};
    match expr {
        Expr::BinaryOp {
            op: op @ (And | Or),
            ..
        } => Some(op.clone()),
        _ => None,
    }
}

fn take(expr: &mut Expr) -> Expr {
    std::mem::replace(expr, Expr::Value(Value::Null.into()))
}

/// Pairs neighbours until one is left.
fn tree_of<T>(mut parts: Vec<T>, pair: &impl Fn(T, T) -> T) -> Option<T> {
    while parts.len() > 1 {
        let mut paired = Vec::with_capacity(parts.len().div_ceil(2));
        let mut rest = parts.into_iter();
        while let Some(left) = rest.next() {
            paired.push(match rest.next() {
                Some(right) => pair(left, right),
                None => left,
            });
        }
        parts = paired;
    }
    parts.pop()
}

/// Puts equalities of one column with literals of one type into a list, where the first of them
/// was.
fn listed(operands: Vec<Expr>) -> Vec<Expr> {
    let mut count: BTreeMap<(Expr, Kind), usize> = BTreeMap::new();
    for operand in &operands {
        if let Some(key) = equality(operand) {
            *count.entry(key).or_default() += 1;
        }
    }
    count.retain(|_, found| *found >= LIST_MIN);
    if count.is_empty() {
        return operands;
    }
    let mut kept: Vec<Expr> = Vec::new();
    let mut places: BTreeMap<(Expr, Kind), usize> = BTreeMap::new();
    for operand in operands {
        let key = equality(&operand).filter(|key| count.contains_key(key));
        let (Some(key), Expr::BinaryOp { left, right, .. }) = (key, &operand) else {
            kept.push(operand);
            continue;
        };
        let value = match literal(right).is_some() {
            true => right.as_ref().clone(),
            false => left.as_ref().clone(),
        };
        if let Some(Expr::InList { list, .. }) =
            places.get(&key).and_then(|place| kept.get_mut(*place))
        {
            list.push(value);
            continue;
        }
        places.insert(key.clone(), kept.len());
        kept.push(Expr::InList {
            expr: Box::new(key.0),
            list: vec![value],
            negated: false,
        });
    }
    kept
}

/// Literals that are compared as the same type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Integer,
    Text,
}

/// The column and the literal's kind, where the expression compares these two.
fn equality(expr: &Expr) -> Option<(Expr, Kind)> {
    let Expr::BinaryOp {
        left,
        op: BinaryOperator::Eq,
        right,
    } = expr
    else {
        return None;
    };
    let column = |expr: &Expr| matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_));
    match (literal(left), literal(right)) {
        (None, Some(kind)) if column(left) => Some((left.as_ref().clone(), kind)),
        (Some(kind), None) if column(right) => Some((right.as_ref().clone(), kind)),
        _ => None,
    }
}

fn literal(expr: &Expr) -> Option<Kind> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(_) => Some(Kind::Text),
            Value::Number(digits, _)
                if digits.len() <= LIST_DIGITS_MAX
                    && digits.bytes().all(|digit| digit.is_ascii_digit()) =>
            {
                Some(Kind::Integer)
            }
            _ => None,
        },
        Expr::UnaryOp {
            op: UnaryOperator::Minus,
            expr,
        } if matches!(expr.as_ref(), Expr::Value(_)) => {
            literal(expr).filter(|kind| *kind == Kind::Integer)
        }
        _ => None,
    }
}

/// Balances a chain of set operations, and what stands to the right of each.
fn balance_set(body: &mut Box<SetExpr>, operations: &mut usize) -> Result<(), QueryError> {
    let mut rest = std::mem::replace(body.as_mut(), nothing());
    let mut chain = Vec::new();
    loop {
        match rest {
            SetExpr::SetOperation {
                left,
                op,
                set_quantifier,
                right,
            } => {
                chain.push((op, set_quantifier, right));
                rest = *left;
            }
            first => {
                rest = first;
                break;
            }
        }
    }
    *operations += chain.len();
    if *operations > SET_OPERATIONS_MAX {
        let instead = "put the rows into one VALUES list, or run several statements";
        let what = "set operations in one query";
        return Err(too_large(what, *operations, SET_OPERATIONS_MAX, instead));
    }
    chain.reverse();
    let mut depth = 0;
    let mut links = chain.into_iter().peekable();
    while let Some((op, quantifier, mut right)) = links.next() {
        balance_set(&mut right, operations)?;
        let mut operands = vec![rest, *right];
        while balances(op, quantifier)
            && let Some((_, _, mut right)) =
                links.next_if(|(next, with, _)| (*next, *with) == (op, quantifier))
        {
            balance_set(&mut right, operations)?;
            operands.push(*right);
        }
        depth += 1;
        if depth > SET_DEPTH_MAX {
            let instead = "put parentheses around parts of the chain";
            let what = "different set operations in a chain";
            return Err(too_large(what, depth, SET_DEPTH_MAX, instead));
        }
        let pair = |left, right| SetExpr::SetOperation {
            left: Box::new(left),
            op,
            set_quantifier: quantifier,
            right: Box::new(right),
        };
        rest = tree_of(operands, &pair).unwrap_or_else(nothing);
    }
    **body = rest;
    Ok(())
}

fn balances(op: SetOperator, quantifier: SetQuantifier) -> bool {
    use SetQuantifier::{All, Distinct, None};
    op == SetOperator::Union && matches!(quantifier, All | Distinct | None)
}

fn nothing() -> SetExpr {
    SetExpr::Values(Values {
        explicit_row: false,
        value_keyword: false,
        rows: Vec::new(),
    })
}
