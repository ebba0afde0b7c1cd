//! What the engine's errors mean to whoever asked.
//!
//! Owns which of our errors each of DataFusion's and Arrow's is. Decided by their variants, by the
//! rule that raised them and by their place in the text. Only where one variant has errors of several
//! kinds (types in the planner, casts in Arrow) the beginning of the sentence decides; the tests
//! `slt/errors.slt` have a statement for each. Nobody is told of DataFusion's own affairs ([`plain`]).

use datafusion::arrow::error::ArrowError;
use datafusion::common::{Diagnostic, SchemaError};
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::parser::ParserError;
use parquet::errors::ParquetError;

use super::{DataFault, PlanFault, Position, QueryError};

/// The planner on operators whose sides have no common type, and on what should be a condition.
const OF_TYPES: [&str; 8] = [
    "Cannot infer common ",
    "Cannot coerce ",
    "Cannot get result type for ",
    "Cannot create filter with non-boolean predicate ",
    "Cannot automatically convert ",
    "Unary operator ",
    "Data type mismatch",
    "Incompatible inputs for Union",
];
/// The planner on functions that take other arguments; which they do follows.
const OF_ARGUMENTS: &str = "No function matches the given name and argument types";
/// Arrow on numbers of another type that are too large; on texts it says something else.
const OF_RANGE: &str = "Can't cast value ";
/// What an internal error ends with.
const OF_A_BUG: &str = "\nThis issue was likely caused by a bug in DataFusion's code.";
/// Names of variants, which stand before errors within others.
const VARIANTS: [&str; 4] = [
    "Error during planning: ",
    "Execution error: ",
    "Internal error: ",
    "Arrow error: ",
];

/// The analyzer's pass that finds a common type for the two sides of an operator, or none.
const TYPE_COERCION: &str = "type_coercion";

impl From<QueryError> for DataFusionError {
    fn from(error: QueryError) -> Self {
        Self::External(Box::new(error))
    }
}

impl From<ArrowError> for QueryError {
    fn from(error: ArrowError) -> Self {
        DataFusionError::from(error).into()
    }
}

impl From<DataFusionError> for QueryError {
    /// What the user can do about it decides, not where it was raised. Context that DataFusion puts
    /// around an error names its own passes, so only the root is told.
    fn from(error: DataFusionError) -> Self {
        let at = place(&error);
        match error.find_root() {
            DataFusionError::SQL(parser, _) => syntax(parser, at),
            DataFusionError::Plan(reason) => Self::Plan {
                fault: match is_of_types(&error) {
                    true => PlanFault::Types,
                    false => PlanFault::of_reason(reason),
                },
                reason: plain(reason),
                at,
            },
            DataFusionError::SchemaError(source, _) => Self::Plan {
                fault: PlanFault::from(source.as_ref()),
                reason: source.to_string().replace('\n', " "),
                at,
            },
            DataFusionError::Collection(errors) => Self::Plan {
                fault: PlanFault::Other,
                reason: errors.first().unwrap_or(&error).strip_backtrace(),
                at,
            },
            DataFusionError::NotImplemented(reason) => Self::Unsupported(plain(reason)),
            DataFusionError::ResourcesExhausted(reason) => exhausted(&plain(reason)),
            DataFusionError::ArrowError(source, _) => from_arrow(source),
            DataFusionError::Execution(reason) | DataFusionError::Configuration(reason) => {
                Self::Data {
                    fault: DataFault::Other,
                    reason: plain(reason),
                }
            }
            DataFusionError::ObjectStore(source) => from_store(source),
            DataFusionError::IoError(source) => Self::Store(source.to_string()),
            DataFusionError::ParquetError(source) => match source.as_ref() {
                ParquetError::External(source) => from_external(source.as_ref()),
                source => Self::Corrupt(source.to_string()),
            },
            DataFusionError::External(source) => from_external(source.as_ref()),
            other => Self::Engine(plain(&other.strip_backtrace())),
        }
    }
}

impl PlanFault {
    fn of_reason(reason: &str) -> Self {
        if reason.contains(OF_ARGUMENTS) {
            return Self::NoFunction;
        }
        match OF_TYPES.iter().any(|begin| reason.starts_with(begin)) {
            true => Self::Types,
            false => Self::Other,
        }
    }
}

impl From<&SchemaError> for PlanFault {
    fn from(error: &SchemaError) -> Self {
        match error {
            SchemaError::FieldNotFound { .. } => Self::NoColumn,
            SchemaError::AmbiguousReference { .. } => Self::AmbiguousColumn,
            SchemaError::DuplicateQualifiedField { .. }
            | SchemaError::DuplicateUnqualifiedField { .. } => Self::DuplicateColumn,
        }
    }
}

/// Where in the text the error is, as far as the parser or the planner has told.
fn place(error: &DataFusionError) -> Option<Position> {
    let span = error
        .diagnostic()
        .and_then(|Diagnostic { span, .. }| *span)?;
    Position::at(span.start.line, span.start.column)
}

fn syntax(error: &ParserError, at: Option<Position>) -> QueryError {
    let reason = match error {
        ParserError::TokenizerError(reason) | ParserError::ParserError(reason) => reason,
        ParserError::RecursionLimitExceeded => "",
    };
    QueryError::Syntax {
        at: at.or_else(|| place_told(reason)),
        reason: error.to_string(),
    }
}

/// The parser appends the place to the reason, and has it nowhere else.
fn place_told(reason: &str) -> Option<Position> {
    let (_, place) = reason.rsplit_once(" at Line: ")?;
    let (line, column) = place.split_once(", Column: ")?;
    Position::at(line.parse().ok()?, column.parse().ok()?)
}

/// Whether the pass that looks for common types gave up.
fn is_of_types(error: &DataFusionError) -> bool {
    let mut error = error;
    loop {
        error = match error {
            DataFusionError::Context(pass, _) if pass == TYPE_COERCION => return true,
            DataFusionError::Context(_, source) | DataFusionError::Diagnostic(_, source) => source,
            DataFusionError::Shared(source) => source,
            _ => return false,
        };
    }
}

/// The message without what DataFusion appends in debugging builds, and without its advice to report
/// a bug. Of a function's arguments only what it takes: what was tried before is told as a bug.
fn plain(reason: &str) -> String {
    let reason = reason.split(DataFusionError::BACK_TRACE_SEP).next();
    let mut reason = reason.unwrap_or_default();
    if let Some((tried, _)) = reason.split_once(OF_ARGUMENTS)
        && VARIANTS.iter().any(|variant| tried.contains(variant))
    {
        reason = &reason[tried.len()..];
    }
    let reason = reason.split(OF_A_BUG).next().unwrap_or_default();
    VARIANTS.iter().fold(reason.to_owned(), |reason, variant| {
        reason.replace(variant, "")
    })
}

/// The pool names who holds how much of it, which is other tenants' affair: the log keeps it.
fn exhausted(reason: &str) -> QueryError {
    tracing::info!(reason, "the memory for queries is used up");
    let told = "what all queries may take together (memory_bytes_max) is used up";
    QueryError::Memory(told.to_owned())
}

fn from_arrow(source: &ArrowError) -> QueryError {
    match source {
        ArrowError::MemoryError(reason) => QueryError::Memory(reason.clone()),
        ArrowError::ExternalError(source) => from_external(source.as_ref()),
        ArrowError::ParquetError(reason) => QueryError::Corrupt(reason.clone()),
        ArrowError::IpcError(reason) => QueryError::Engine(reason.clone()),
        other => QueryError::Data {
            fault: match other {
                ArrowError::DivideByZero => DataFault::DivisionByZero,
                ArrowError::ArithmeticOverflow(_) => DataFault::OutOfRange,
                ArrowError::CastError(reason) if reason.starts_with(OF_RANGE) => {
                    DataFault::OutOfRange
                }
                ArrowError::CastError(_) | ArrowError::ParseError(_) => DataFault::Unreadable,
                _ => DataFault::Other,
            },
            reason: plain(&other.to_string()),
        },
    }
}

fn from_store(source: &object_store::Error) -> QueryError {
    match source {
        object_store::Error::NotFound { path, .. } => QueryError::FileGone(path.clone()),
        other => QueryError::Store(other.to_string()),
    }
}

fn from_external(source: &(dyn std::error::Error + Send + Sync + 'static)) -> QueryError {
    if let Some(own) = source.downcast_ref::<QueryError>() {
        return own.clone();
    }
    if let Some(store) = source.downcast_ref::<object_store::Error>() {
        return from_store(store);
    }
    let text = source.to_string();
    // The crate that reads patterns is none of ours: its errors have no other name.
    if text.starts_with("regex parse error") || text.starts_with("Compiled regex exceeds") {
        return QueryError::Data {
            fault: DataFault::Other,
            reason: text,
        };
    }
    QueryError::Engine(text)
}
