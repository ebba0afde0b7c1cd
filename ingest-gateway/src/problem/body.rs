//! What is wrong with a body, or with the room for it.

use tidelake_codec::{Reason, Rejection};
use tidelake_core::ErrorKind;
use tidelake_service::Problem;

use super::{Answer, chain, unavailable};
use crate::body::Fault;
use crate::decode::BodyError;
use crate::packer::PackError;
use crate::spool::SpoolError;

impl From<BodyError> for Answer {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Empty => Problem::new(400, "EMPTY_BODY", "the body is empty")
                .hint("send at least one record")
                .into(),
            BodyError::Fault(fault) => of_fault(&fault).into(),
            BodyError::Rejected { row, rejection } => of_rejection(row, &rejection).into(),
            BodyError::Pack(PackError::RowTooLarge { row, bytes }) => {
                let pack = PackError::RowTooLarge { row, bytes };
                Problem::new(413, "RECORD_TOO_LARGE", "a record is too large")
                    .detail(pack.to_string())
                    .row(row)
                    .into()
            }
            BodyError::Pack(error @ PackError::Encode(_)) => {
                Problem::from_kind(ErrorKind::Bug, error.to_string()).into()
            }
            BodyError::Schema(reason) | BodyError::Worker(reason) => {
                Problem::from_kind(ErrorKind::Bug, reason).into()
            }
            // Such a body gets more room instead.
            BodyError::Outgrown => Problem::from_kind(ErrorKind::Bug, error.to_string()).into(),
            BodyError::Spool(error) => of_spool(&error).into(),
        }
    }
}

fn of_fault(fault: &Fault) -> Problem {
    let (status, code, title) = match fault {
        Fault::CutShort(_) => (400, "BODY_CUT_SHORT", "the body was cut short"),
        Fault::Idle(_) | Fault::Slow(_) => (408, "BODY_TIMEOUT", "the body did not come in time"),
        Fault::TooLarge(_) => (413, "BODY_TOO_LARGE", "the body is too large"),
        Fault::Coding { .. } => (400, "MALFORMED_ENCODING", "the body can't be decompressed"),
    };
    let problem = Problem::new(status, code, title).detail(fault.to_string());
    match fault {
        Fault::TooLarge(_) => problem.hint("nothing was written: send it in several bodies"),
        Fault::Slow(_) => problem.hint("nothing was written: send it faster, or in smaller bodies"),
        _ => problem,
    }
}

fn of_rejection(row: u64, rejection: &Rejection) -> Problem {
    let (status, title) = match &rejection.reason {
        Reason::TooLarge { .. } => (413, "a record is too large"),
        Reason::DecodedTooLarge { .. } => (413, "records become too large"),
        Reason::BatchTooLarge { .. } => (413, "a batch is too large"),
        reason if reason.is_malformed() => (400, "the body is malformed"),
        _ => (422, "a record does not fit the schema"),
    };
    let at = match &rejection.field {
        Some(field) => format!("row {row}, field {field:?}: "),
        None => format!("row {row}: "),
    };
    let code = match &rejection.reason {
        Reason::TooLarge {
            what: "the record", ..
        } => "RECORD_TOO_LARGE",
        _ => rejection.code(),
    };
    let problem = Problem::new(status, code, title)
        .detail(format!("{at}{}", rejection.reason))
        .row(row)
        .hint("no record of this body was written");
    match &rejection.field {
        Some(field) => problem.field(field.clone()),
        None => problem,
    }
}

pub(super) fn of_spool(error: &SpoolError) -> Problem {
    tracing::warn!(error = chain(error), "a body could not be spooled");
    let detail = match error {
        SpoolError::DiskBudget(_) => error.to_string(),
        SpoolError::File { .. } | SpoolError::Merge(_) => {
            "a temporary file could not be used".to_owned()
        }
    };
    unavailable("OVERLOADED", "no room for a body of this size now", detail)
        .hint("nothing was written: send it again later, or in smaller bodies")
}
