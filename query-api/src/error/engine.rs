//! What the engine's errors mean to whoever asked.
//!
//! Owns which of our errors each of DataFusion's and Arrow's is. Decided by their variants, by the
//! rule that raised them and by their place in the text, never by their prose.

use datafusion::arrow::error::ArrowError;
use datafusion::common::{Diagnostic, SchemaError};
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::parser::ParserError;
use parquet::errors::ParquetError;

use super::{DataFault, PlanFault, Position, QueryError};

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
                    false => PlanFault::Other,
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
            other => Self::Engine(other.strip_backtrace()),
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

/// The message without what DataFusion appends in debugging builds.
fn plain(reason: &str) -> String {
    reason
        .split(DataFusionError::BACK_TRACE_SEP)
        .next()
        .unwrap_or_default()
        .to_owned()
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
                ArrowError::CastError(_) | ArrowError::ParseError(_) => DataFault::Unreadable,
                _ => DataFault::Other,
            },
            reason: other.to_string(),
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
