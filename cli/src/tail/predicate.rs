//! `--where`: a condition on rows, in a small part of SQL, decided here without asking anybody.
//!
//! ```text
//!  or   = and { OR and }        and = not { AND not }       not = NOT not | ( or ) | test
//!  test = column ( = | <> | != | < | <= | > | >= ) literal | column IS [NOT] NULL
//!       | column [NOT] ( IN ( literal, … ) | LIKE 'text' | BETWEEN literal AND literal )
//! ```
//! A literal is read as a value of the column that it stands beside. Null and comparisons are SQL's:
//! the kernels are those that the query service runs on. Of a delete only the key is known: its other
//! columns are null.
//!
//! Invariant: a predicate that was made for a table's schema can be decided for all its batches.

mod parse;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, Scalar, StringArray};
use arrow::compute::kernels::cmp;
use arrow::compute::{CastOptions, and_kleene, cast_with_options, is_null, like, not, or_kleene};
use arrow::datatypes::{DataType, Schema};
use arrow::error::ArrowError;
use tidelake_schema::TableSchema;
use tidelake_schema::arrow::to_arrow;

use crate::failure::Failure;

/// A condition on the rows of a table.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Predicate {
    text: String,
    root: Node,
}

#[derive(Debug, Clone, PartialEq)]
enum Node {
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Not(Box<Node>),
    /// Of a column by its name.
    Test(String, Test),
}

#[derive(Debug, Clone, PartialEq)]
enum Test {
    IsNull,
    Compare(Op, String),
    In(Vec<String>),
    Like(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Predicate {
    /// Reads a condition for a table of this schema.
    pub(super) fn new(text: &str, schema: &TableSchema) -> Result<Self, Failure> {
        let root = parse::parse(text).map_err(|why| unfit(text, &why))?;
        let mut predicate = Self {
            text: text.to_owned(),
            root,
        };
        predicate.adopt(schema)?;
        Ok(predicate)
    }

    /// Makes sure that the table still has the columns, with types that the literals fit.
    pub(super) fn adopt(&mut self, schema: &TableSchema) -> Result<(), Failure> {
        let schema = to_arrow(schema);
        let bound = bind(&mut self.root, &schema);
        bound.map_err(|why| unfit(&self.text, &why))
    }

    /// Which rows it holds for; not for those where it is null.
    pub(super) fn decide(&self, batch: &RecordBatch) -> Result<BooleanArray, Failure> {
        decide(&self.root, batch).map_err(|error| unfit(&self.text, &error.to_string()))
    }
}

fn unfit(text: &str, why: &str) -> Failure {
    Failure::usage(format!("--where {text}: {why}"))
        .hint("for example \"status = 'open' AND NOT (amount < 10 OR note IS NULL)\"")
}

/// Finds the columns, whatever their case where that is enough to tell them, and tries the literals.
fn bind(node: &mut Node, schema: &Schema) -> Result<(), String> {
    match node {
        Node::And(left, right) | Node::Or(left, right) => {
            bind(left, schema)?;
            bind(right, schema)
        }
        Node::Not(inner) => bind(inner, schema),
        Node::Test(column, test) => {
            let fields = schema.fields().iter();
            let alike = fields.filter(|field| field.name().eq_ignore_ascii_case(column));
            let alike: Vec<_> = alike.collect();
            let exact = alike.iter().find(|field| field.name() == column);
            let field = match (exact, alike.as_slice()) {
                (Some(field), _) => field,
                (None, [field]) => field,
                (None, []) => return Err(format!("the table has no column {column}")),
                _ => {
                    return Err(format!(
                        "several columns are called {column} but for the case"
                    ));
                }
            };
            field.name().clone_into(column);
            let ty = field.data_type();
            let literals = match test {
                Test::IsNull => &[][..],
                Test::Compare(_, literal) => std::slice::from_ref(literal),
                Test::In(literals) => literals,
                Test::Like(_) if *ty == DataType::Utf8 => &[],
                Test::Like(_) => return Err(format!("column {column} is no text")),
            };
            let fits = literals
                .iter()
                .try_for_each(|text| literal(text, ty).map(|_| ()));
            fits.map_err(|error| format!("column {column}: {error}"))
        }
    }
}

/// A value of a type.
fn literal(text: &str, ty: &DataType) -> Result<Scalar<ArrayRef>, ArrowError> {
    let comparable = ty.is_primitive() || matches!(ty, DataType::Utf8 | DataType::Boolean);
    if !comparable {
        let message = format!("values of type {ty} can't be compared here");
        return Err(ArrowError::InvalidArgumentError(message));
    }
    let strict = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    let text = StringArray::from(vec![text]);
    Ok(Scalar::new(cast_with_options(&text, ty, &strict)?))
}

fn decide(node: &Node, batch: &RecordBatch) -> Result<BooleanArray, ArrowError> {
    match node {
        Node::And(left, right) => and_kleene(&decide(left, batch)?, &decide(right, batch)?),
        Node::Or(left, right) => or_kleene(&decide(left, batch)?, &decide(right, batch)?),
        Node::Not(inner) => not(&decide(inner, batch)?),
        Node::Test(column, test) => match batch.column_by_name(column) {
            Some(values) => decide_test(test, values),
            // Of a delete: null.
            None => Ok(match test {
                Test::IsNull => BooleanArray::from(vec![true; batch.num_rows()]),
                _ => BooleanArray::new_null(batch.num_rows()),
            }),
        },
    }
}

fn decide_test(test: &Test, values: &ArrayRef) -> Result<BooleanArray, ArrowError> {
    match test {
        Test::IsNull => is_null(values),
        Test::Like(pattern) => like(values, &StringArray::new_scalar(pattern)),
        Test::Compare(op, text) => compare(*op, values, text),
        Test::In(literals) => {
            let none = BooleanArray::from(vec![false; values.len()]);
            literals.iter().try_fold(none, |found, text| {
                or_kleene(&found, &compare(Op::Equal, values, text)?)
            })
        }
    }
}

fn compare(op: Op, values: &ArrayRef, text: &str) -> Result<BooleanArray, ArrowError> {
    let right = literal(text, values.data_type())?;
    match op {
        Op::Equal => cmp::eq(values, &right),
        Op::NotEqual => cmp::neq(values, &right),
        Op::Less => cmp::lt(values, &right),
        Op::LessOrEqual => cmp::lt_eq(values, &right),
        Op::Greater => cmp::gt(values, &right),
        Op::GreaterOrEqual => cmp::gt_eq(values, &right),
    }
}

#[cfg(test)]
mod tests;
