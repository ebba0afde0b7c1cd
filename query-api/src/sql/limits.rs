//! What a statement's text may cost before anybody understands it.
//!
//! The parser builds chains (`a + b + c …`, `q UNION q …`) in a loop, so its own recursion limit
//! does not count them; whatever visits, copies or drops the tree afterwards recurses once a level.
//! Here the tokens are counted first, in one pass and without recursion: their number, how deep
//! groups nest, and an upper bound of the tree's depth. A text above the bounds is refused; one
//! whose tree may be deep is read on a stack of its own ([`on_own_stack`]), where the tree becomes
//! flat ([`super::tree`]) before it leaves.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use super::dialect::TidelakeDialect;
use crate::error::QueryError;

/// Bytes of one statement.
pub(super) const STATEMENT_BYTES_MAX: usize = 4 << 20;
/// Words, numbers, operators and signs of one statement: an `IN` of 100,000 values fits.
const TOKENS_MAX: usize = 500_000;
/// Groups (parentheses, brackets, braces) within each other.
const NESTING_MAX: usize = 100;
/// Levels of a tree before its chains are balanced.
const DEPTH_MAX: usize = 40_000;
/// What the parser reads without counting its own depth: `ARRAY<ARRAY<…`, `int[][]…`, `EXPLAIN
/// EXPLAIN …`.
const UNCOUNTED_MAX: usize = 32;
/// Trees that may be deeper, and groups that nest deeper, are read on a stack of their own: one
/// level takes the parser many calls.
const SHALLOW_MAX: usize = 150;
const SHALLOW_NESTING_MAX: usize = 10;
/// A text within these bounds is read in moments, and on any stack.
const SHORT_BYTES_MAX: usize = 4096;
const SHORT_TOKENS_MAX: usize = 256;
const SHORT_DEPTH_MAX: usize = 24;
const SHORT_NESTING_MAX: usize = 2;
/// Enough to drop or visit a tree of [`DEPTH_MAX`] levels in a debug build; only what is used is
/// ever touched.
const OWN_STACK_BYTES: usize = 128 << 20;

/// A text cut into tokens that is within the bounds.
#[derive(Debug)]
pub(super) struct Measured {
    /// Absent where the text can't be cut: that is the parser's to refuse.
    pub tokens: Option<Vec<TokenWithSpan>>,
    /// No tree of this text is deeper.
    depth: usize,
    nesting: usize,
    /// Statements of other kinds nest each in its own way: EXPLAIN EXPLAIN …, IF … THEN IF ….
    is_query: bool,
}

impl Measured {
    /// Whether the tree may be too deep for the caller's stack.
    pub(super) fn is_deep(&self) -> bool {
        self.depth > SHALLOW_MAX || self.nesting > SHALLOW_NESTING_MAX || !self.is_query
    }

    fn is_short(&self) -> bool {
        let tokens = self.tokens.as_ref();
        let few = tokens.is_some_and(|tokens| tokens.len() <= SHORT_TOKENS_MAX);
        few && self.is_query && self.depth <= SHORT_DEPTH_MAX && self.nesting <= SHORT_NESTING_MAX
    }
}

/// As [`measure`], of a text that is read in moments; none where it may take longer.
pub(super) fn short(sql: &str) -> Option<Measured> {
    let measured = (sql.len() <= SHORT_BYTES_MAX).then(|| measure(sql).ok())??;
    measured.is_short().then_some(measured)
}

/// Cuts the text into tokens and counts them.
pub(super) fn measure(sql: &str) -> Result<Measured, QueryError> {
    if sql.len() > STATEMENT_BYTES_MAX {
        return Err(too_large(
            "bytes",
            sql.len(),
            STATEMENT_BYTES_MAX,
            "read long lists from a table instead",
        ));
    }
    let Ok(tokens) = Tokenizer::new(&TidelakeDialect::of(0), sql).tokenize_with_location() else {
        return Ok(Measured {
            tokens: None,
            depth: 0,
            nesting: 0,
            is_query: true,
        });
    };
    let mut count = Count::default();
    for token in &tokens {
        count.token(&token.token)?;
    }
    Ok(Measured {
        tokens: Some(tokens),
        depth: count.deepest,
        nesting: count.nesting,
        is_query: count.is_query,
    })
}

pub(super) fn too_large(what: &str, found: usize, max: usize, instead: &str) -> QueryError {
    QueryError::NotAllowed(format!(
        "the statement has {found} {what}; {max} is the most: {instead}"
    ))
}

/// Runs `read` on a thread with a large stack and waits for it.
pub(super) fn on_own_stack<T: Send>(
    read: impl FnOnce() -> Result<T, QueryError> + Send,
) -> Result<T, QueryError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("sql-deep".into())
            .stack_size(OWN_STACK_BYTES)
            .spawn_scoped(scope, read)
            .map_err(|error| {
                QueryError::Memory(format!(
                    "no stack of {OWN_STACK_BYTES} bytes for a deep statement: {error}"
                ))
            })?;
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// One group: what deepens the tree since its last comma, and since its beginning.
#[derive(Debug, Default, Clone, Copy)]
struct Group {
    operators: usize,
    /// A comma within a `SELECT` ends no chain of set operations.
    set_operations: usize,
}

impl Group {
    fn depth(self) -> usize {
        1 + self.operators + self.set_operations
    }
}

#[derive(Debug, Default)]
struct Count {
    tokens: usize,
    groups: Vec<Group>,
    /// The group that is open, and the depths of those around it.
    group: Group,
    around: usize,
    deepest: usize,
    nesting: usize,
    is_query: bool,
    uncounted: usize,
    /// `[]` in a row.
    empty_brackets: usize,
    before: Before,
}

/// What the last token was, as far as it matters.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Before {
    #[default]
    Other,
    TypeWithParameters,
    OpenBracket,
    EmptyBrackets,
}

impl Count {
    fn token(&mut self, token: &Token) -> Result<(), QueryError> {
        if matches!(token, Token::Whitespace(_)) {
            return Ok(());
        }
        self.tokens += 1;
        if self.tokens > TOKENS_MAX {
            let instead = "read long lists from a table instead";
            return Err(too_large(
                "words and signs",
                self.tokens,
                TOKENS_MAX,
                instead,
            ));
        }
        if self.tokens == 1 {
            self.is_query = begins_query(token);
        }
        let before = std::mem::take(&mut self.before);
        match token {
            Token::LParen | Token::LBracket | Token::LBrace => {
                self.open()?;
                if *token == Token::LBracket {
                    self.before = Before::OpenBracket;
                    if before != Before::EmptyBrackets {
                        self.empty_brackets = 0;
                    }
                }
            }
            Token::RParen | Token::RBracket | Token::RBrace => {
                self.close();
                if before == Before::OpenBracket {
                    self.before = Before::EmptyBrackets;
                    self.empty_brackets += 1;
                    bounded("[] in a row", self.empty_brackets)?;
                }
            }
            Token::Comma => self.group.operators = 0,
            Token::Number(..) | Token::Placeholder(_) => {}
            Token::Word(word) => self.word(word.keyword),
            Token::Lt if before == Before::TypeWithParameters => self.uncounted += 1,
            Token::Minus | Token::Plus | Token::Tilde | Token::ExclamationMark | Token::Arrow => {
                self.group.operators += 1;
                self.prefixes();
            }
            other if is_text(other) => {}
            _ => self.group.operators += 1,
        }
        bounded("nested types or EXPLAINs", self.uncounted)?;
        self.deepest = self.deepest.max(self.around + self.group.depth());
        if self.deepest > DEPTH_MAX {
            return Err(too_large(
                "operators in a chain",
                self.deepest,
                DEPTH_MAX,
                "write x IN (…) for many values of one column, or join a table of them",
            ));
        }
        Ok(())
    }

    fn open(&mut self) -> Result<(), QueryError> {
        self.group.operators += 1;
        if self.groups.len() >= NESTING_MAX {
            let instead = "name inner queries in one WITH list, and simplify expressions";
            let found = self.groups.len() + 1;
            return Err(too_large(
                "groups within each other",
                found,
                NESTING_MAX,
                instead,
            ));
        }
        self.around += self.group.depth();
        self.groups.push(std::mem::take(&mut self.group));
        self.nesting = self.nesting.max(self.groups.len());
        Ok(())
    }

    /// Operators before their operand nest, until a comma.
    fn prefixes(&mut self) {
        let nesting = self.groups.len() + self.group.operators;
        self.nesting = self.nesting.max(nesting);
    }

    /// A group too many is the parser's to refuse.
    fn close(&mut self) {
        if let Some(outer) = self.groups.pop() {
            self.around -= outer.depth();
            self.group = outer;
        }
    }

    /// Every word that may stand between operands counts; those that only begin clauses do not.
    fn word(&mut self, keyword: Keyword) {
        use Keyword as K;
        match keyword {
            K::UNION | K::EXCEPT | K::INTERSECT | K::MINUS => self.group.set_operations += 1,
            K::ARRAY | K::STRUCT | K::MAP => self.before = Before::TypeWithParameters,
            K::EXPLAIN => self.uncounted += 1,
            // What follows is an operand, and the parser counts these itself; its stack is used.
            K::CASE | K::NOT | K::INTERVAL | K::PRIOR => {
                self.group.operators += 1;
                self.prefixes();
            }
            K::NoKeyword
            | K::SELECT
            | K::FROM
            | K::WHERE
            | K::AS
            | K::ALL
            | K::BY
            | K::ON
            | K::JOIN
            | K::LEFT
            | K::RIGHT
            | K::INNER
            | K::WHEN
            | K::THEN
            | K::ELSE
            | K::END
            | K::NULL
            | K::TRUE
            | K::FALSE
            | K::ASC
            | K::DESC
            | K::ORDER
            | K::GROUP => {}
            _ => self.group.operators += 1,
        }
    }
}

fn bounded(what: &str, found: usize) -> Result<(), QueryError> {
    if found > UNCOUNTED_MAX {
        return Err(too_large(
            what,
            found,
            UNCOUNTED_MAX,
            "write a simpler type",
        ));
    }
    Ok(())
}

fn begins_query(token: &Token) -> bool {
    use Keyword::{FROM, SELECT, SHOW, VALUES, WITH};
    match token {
        Token::LParen => true,
        Token::Word(word) => matches!(word.keyword, SELECT | WITH | FROM | VALUES | SHOW),
        _ => false,
    }
}

fn is_text(token: &Token) -> bool {
    matches!(
        token,
        Token::SingleQuotedString(_)
            | Token::DoubleQuotedString(_)
            | Token::NationalStringLiteral(_)
            | Token::EscapedStringLiteral(_)
            | Token::UnicodeStringLiteral(_)
            | Token::HexStringLiteral(_)
            | Token::SingleQuotedByteStringLiteral(_)
            | Token::DollarQuotedString(_)
            | Token::Period
            | Token::SemiColon
            | Token::EOF
    )
}
