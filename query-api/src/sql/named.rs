//! `VERSION AS OF 'name'`: the parser takes numbers and parameters there, so a name goes through it
//! as the parameter `$_name`.

use datafusion::sql::sqlparser::ast::{Expr, Value};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};
use tidelake_core::SnapshotName;

use crate::error::QueryError;

const PREFIX: &str = "$_";

/// Makes every name after `VERSION AS OF` a parameter.
pub(super) fn hide_names(tokens: &mut [TokenWithSpan]) -> Result<(), QueryError> {
    use Keyword::{AS, OF, VERSION};
    let is = |token: &Token, keyword| matches!(token, Token::Word(word) if word.keyword == keyword);
    // How many words of `VERSION AS OF` stand before this token.
    let mut seen = 0;
    for token in tokens {
        if matches!(token.token, Token::Whitespace(_)) {
            continue;
        }
        if seen == 3
            && let Token::SingleQuotedString(text) = &token.token
        {
            let name = SnapshotName::new(text).map_err(|_| not_a_version(&format!("'{text}'")))?;
            token.token = Token::Placeholder(format!("{PREFIX}{name}"));
        }
        seen = match seen {
            1 if is(&token.token, AS) => 2,
            2 if is(&token.token, OF) => 3,
            _ => usize::from(is(&token.token, VERSION)),
        };
    }
    Ok(())
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
