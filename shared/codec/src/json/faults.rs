//! What is wrong with a value, told out of the way of those that are right.

use super::cursor::Cursor;
use crate::decimal;
use crate::reject::{Fault, Reason};

#[cold]
pub(super) fn out_of_range(cursor: &Cursor<'_>, start: usize, expected: &str) -> Box<Fault> {
    let (expected, found) = (expected.to_owned(), cursor.found(start));
    Fault::new(Reason::OutOfRange { expected, found })
}

#[cold]
pub(super) fn wrong_type(cursor: &Cursor<'_>, start: usize, expected: String) -> Box<Fault> {
    Fault::new(Reason::WrongType {
        expected,
        found: cursor.found(start),
    })
}

#[cold]
pub(super) fn invalid(expected: String, found: String, detail: &'static str) -> Box<Fault> {
    Fault::new(Reason::InvalidValue {
        expected,
        found,
        detail,
    })
}

#[cold]
pub(super) fn decimal_fault(
    misfit: decimal::Misfit,
    expected: String,
    found: String,
) -> Box<Fault> {
    Fault::new(match misfit {
        decimal::Misfit::NotANumber => Reason::InvalidValue {
            expected,
            found,
            detail: "not a decimal number",
        },
        decimal::Misfit::Inexact => Reason::Inexact { expected, found },
        decimal::Misfit::OutOfRange => Reason::OutOfRange { expected, found },
    })
}

#[cold]
pub(super) fn column_full() -> Box<Fault> {
    Fault::new(Reason::TooLarge {
        what: "one column of the batch",
        max: i32::MAX as usize,
    })
}
