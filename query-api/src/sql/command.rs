//! Statements of ours that are no queries: `CREATE SNAPSHOT` and `DROP SNAPSHOT`.
//!
//! ```text
//!  CREATE SNAPSHOT name FOR TABLE t [AS OF VERSION n | AS OF TIMESTAMP '…']
//!  DROP SNAPSHOT name FOR TABLE t
//! ```
//! `VERSION AS OF n` and `TIMESTAMP AS OF '…'` are taken as well, and a snapshot's name as version.

use datafusion::common::{ScalarValue, TableReference};
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::Token;
use tidelake_core::SnapshotName;

use super::AsOf;
use super::dialect::TidelakeDialect;
use super::limits::{self, Measured};
use super::relations::{fold, literal, reference, timestamp_of, version_of};
use crate::error::QueryError;

/// Words, signs and spaces of the longest command.
const TOKENS_MAX: usize = 100;
/// A command's values are literals.
const RECURSION_MAX: usize = 10;

/// A statement that changes something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    CreateSnapshot {
        name: SnapshotName,
        table: TableReference,
        /// Absent: as the request says.
        as_of: Option<AsOf>,
    },
    DropSnapshot {
        name: SnapshotName,
        table: TableReference,
    },
}

/// The command that the text is, if it is one.
pub(crate) fn command(sql: &str, params: &[ScalarValue]) -> Result<Option<Command>, QueryError> {
    // Most statements are queries: spare them the second look.
    let mentions = sql
        .as_bytes()
        .windows("snapshot".len())
        .any(|part| part.eq_ignore_ascii_case(b"snapshot"));
    if !mentions {
        return Ok(None);
    }
    // What can't be cut into words, and what is too long for a command, is the query parser's.
    let Ok(Measured {
        tokens: Some(tokens),
        ..
    }) = limits::measure(sql)
    else {
        return Ok(None);
    };
    if tokens.len() > TOKENS_MAX {
        return Ok(None);
    }
    let dialect = TidelakeDialect::of(tokens.len());
    let mut parser = Parser::new(&dialect)
        .with_recursion_limit(RECURSION_MAX)
        .with_tokens_with_locations(tokens);
    let creates = parser.parse_keywords(&[Keyword::CREATE, Keyword::SNAPSHOT]);
    if !creates && !parser.parse_keywords(&[Keyword::DROP, Keyword::SNAPSHOT]) {
        return Ok(None);
    }
    read(&mut parser, creates, params).map(Some)
}

fn read(
    parser: &mut Parser<'_>,
    creates: bool,
    params: &[ScalarValue],
) -> Result<Command, QueryError> {
    let written = fold(&parser.parse_identifier().map_err(syntax)?);
    let name =
        SnapshotName::new(&written).map_err(|error| QueryError::Invalid(error.to_string()))?;
    parser
        .expect_keywords(&[Keyword::FOR, Keyword::TABLE])
        .map_err(syntax)?;
    let table = reference(&parser.parse_object_name(false).map_err(syntax)?)?;
    let as_of = if creates {
        as_of(parser, params)?
    } else {
        None
    };
    let ended = parser.consume_token(&Token::SemiColon);
    if parser.peek_token().token != Token::EOF {
        if ended {
            let reason = "send one statement at a time";
            return Err(QueryError::NotAllowed(reason.into()));
        }
        parser
            .expected("the end of the statement", parser.peek_token())
            .map_err(syntax)?;
    }
    Ok(match creates {
        true => Command::CreateSnapshot { name, table, as_of },
        false => Command::DropSnapshot { name, table },
    })
}

fn as_of(parser: &mut Parser<'_>, params: &[ScalarValue]) -> Result<Option<AsOf>, QueryError> {
    use Keyword::{AS, OF, TIMESTAMP, VERSION};
    let by_version = if parser.parse_keywords(&[VERSION, AS, OF]) {
        true
    } else if parser.parse_keywords(&[TIMESTAMP, AS, OF]) {
        false
    } else if parser.parse_keywords(&[AS, OF]) {
        parser
            .expect_one_of_keywords(&[VERSION, TIMESTAMP])
            .map_err(syntax)?
            == VERSION
    } else {
        return Ok(None);
    };
    let expr = parser.parse_expr().map_err(syntax)?;
    let text = literal(&expr, params);
    match by_version {
        true => version_of(&expr, text),
        false => timestamp_of(&expr, text),
    }
    .map(Some)
}

fn syntax(error: datafusion::sql::sqlparser::parser::ParserError) -> QueryError {
    DataFusionError::from(error).into()
}
