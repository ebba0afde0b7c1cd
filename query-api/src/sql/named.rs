//! `VERSION AS OF 'name'`: the parser takes numbers and parameters there, so a name goes through it as
//! the parameter `$_name`, which is as long as the name in its quotes: places in messages stay true.

use std::borrow::Cow;

use datafusion::sql::sqlparser::ast::{Expr, Value};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, Tokenizer};
use tidelake_core::SnapshotName;

use super::dialect::TidelakeDialect;
use crate::error::QueryError;

const PREFIX: &str = "$_";

/// The statement with every name after `VERSION AS OF` as a parameter.
pub(super) fn hide_names(sql: &str) -> Result<Cow<'_, str>, QueryError> {
    // What can't be cut into tokens is the parser's to refuse.
    let Ok(tokens) = Tokenizer::new(&TidelakeDialect, sql).tokenize_with_location() else {
        return Ok(Cow::Borrowed(sql));
    };
    let told: Vec<_> = tokens
        .iter()
        .filter(|token| !matches!(token.token, Token::Whitespace(_)))
        .collect();
    let is = |token: &Token, keyword| matches!(token, Token::Word(word) if word.keyword == keyword);
    let mut hidden = Cow::Borrowed(sql);
    for four in told.windows(4) {
        let [version, r#as, of, name] = four else {
            continue;
        };
        let asks = is(&version.token, Keyword::VERSION)
            && is(&r#as.token, Keyword::AS)
            && is(&of.token, Keyword::OF);
        let (true, Token::SingleQuotedString(text)) = (asks, &name.token) else {
            continue;
        };
        let checked = SnapshotName::new(text).map_err(|_| not_a_version(&format!("'{text}'")))?;
        let quoted = format!("'{checked}'");
        // Of the same length, so that earlier replacements have moved nothing.
        if let Some(at) = byte_of(sql, name.span.start)
            && sql[at..].starts_with(&quoted)
        {
            let parameter = format!("{PREFIX}{checked}");
            hidden
                .to_mut()
                .replace_range(at..at + quoted.len(), &parameter);
        }
    }
    Ok(hidden)
}

/// The name that the expression hides.
pub(super) fn hidden_name(expr: &Expr) -> Option<SnapshotName> {
    let Expr::Value(value) = expr else {
        return None;
    };
    let Value::Placeholder(name) = &value.value else {
        return None;
    };
    SnapshotName::new(name.strip_prefix(PREFIX)?).ok()
}

pub(super) fn not_a_version(found: &str) -> QueryError {
    QueryError::Invalid(format!(
        "VERSION AS OF takes a version's number or a snapshot's name, not {found}"
    ))
}

/// Where a line and column (from 1, in characters) are.
fn byte_of(sql: &str, at: Location) -> Option<usize> {
    let line = usize::try_from(at.line.checked_sub(1)?).ok()?;
    let column = usize::try_from(at.column.checked_sub(1)?).ok()?;
    let start: usize = sql.split_inclusive('\n').take(line).map(str::len).sum();
    let in_line = sql.get(start..)?.char_indices().nth(column)?;
    Some(start + in_line.0)
}
