//! Text to a condition.

use super::{Node, Op, Test};

/// Parentheses and NOT within each other.
const DEPTH_MAX: usize = 64;
const TOKENS_MAX: usize = 2_000;

#[derive(Debug, Clone, PartialEq)]
enum Token {
    /// A keyword, or a name without quotes.
    Word(String),
    /// A name in quotes.
    Name(String),
    Number(String),
    Text(String),
    Sign(&'static str),
}

/// Longer ones first.
const SIGNS: [&str; 9] = ["<>", "!=", "<=", ">=", "=", "<", ">", "(", ")"];

pub(super) fn parse(text: &str) -> Result<Node, String> {
    let tokens = tokens(text)?;
    if tokens.len() > TOKENS_MAX {
        return Err(format!("it has more than {TOKENS_MAX} words"));
    }
    let mut parser = Parser { tokens, at: 0 };
    let node = parser.or(DEPTH_MAX)?;
    match parser.tokens.get(parser.at) {
        None => Ok(node),
        Some(token) => Err(format!("{} was not expected", shown(token))),
    }
}

fn shown(token: &Token) -> String {
    match token {
        Token::Word(text) | Token::Number(text) => text.clone(),
        Token::Name(text) => format!("\"{text}\""),
        Token::Text(text) => format!("'{text}'"),
        Token::Sign(sign) => (*sign).to_owned(),
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = if matches!(first, '\'' | '"') {
            let (value, length) = quoted(rest, first)?;
            let token = match first {
                '"' => Token::Name(value),
                _ => Token::Text(value),
            };
            (token, length)
        } else if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            (Token::Sign(sign), sign.len())
        } else if first == ',' {
            (Token::Sign(","), 1)
        } else {
            let in_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '+' | '-');
            let length = rest.find(|c| !in_word(c)).unwrap_or(rest.len());
            if length == 0 {
                return Err(format!("{first} was not expected"));
            }
            let word = rest[..length].to_owned();
            let number = word.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
            (
                if number {
                    Token::Number(word)
                } else {
                    Token::Word(word)
                },
                length,
            )
        };
        tokens.push(token);
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

/// The text within quotes, of which two stand for one, and its length with them.
fn quoted(text: &str, quote: char) -> Result<(String, usize), String> {
    let mut value = String::new();
    let mut rest = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = rest.next() {
        if c != quote {
            value.push(c);
        } else if rest.next_if(|(_, next)| *next == quote).is_some() {
            value.push(quote);
        } else {
            return Ok((value, at + 1));
        }
    }
    Err(format!("a {quote} is not closed"))
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn next(&mut self, wanted: &str) -> Result<Token, String> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token.ok_or_else(|| format!("{wanted} is missing at the end"))
    }

    /// Takes a keyword, if it is the next token.
    fn word(&mut self, keyword: &str) -> bool {
        let is_next = matches!(self.tokens.get(self.at),
            Some(Token::Word(word)) if word.eq_ignore_ascii_case(keyword));
        self.at += usize::from(is_next);
        is_next
    }

    fn sign(&mut self, sign: &str) -> bool {
        let is_next = matches!(self.tokens.get(self.at), Some(Token::Sign(next)) if *next == sign);
        self.at += usize::from(is_next);
        is_next
    }

    fn must(&mut self, found: bool, wanted: &str) -> Result<(), String> {
        match (found, self.tokens.get(self.at)) {
            (true, _) => Ok(()),
            (false, Some(token)) => Err(format!("{wanted} was expected before {}", shown(token))),
            (false, None) => Err(format!("{wanted} is missing at the end")),
        }
    }

    fn or(&mut self, depth: usize) -> Result<Node, String> {
        let mut node = self.and(depth)?;
        while self.word("or") {
            node = Node::Or(Box::new(node), Box::new(self.and(depth)?));
        }
        Ok(node)
    }

    fn and(&mut self, depth: usize) -> Result<Node, String> {
        let mut node = self.not(depth)?;
        while self.word("and") {
            node = Node::And(Box::new(node), Box::new(self.not(depth)?));
        }
        Ok(node)
    }

    fn not(&mut self, depth: usize) -> Result<Node, String> {
        let Some(within) = depth.checked_sub(1) else {
            return Err(format!("it is nested deeper than {DEPTH_MAX}"));
        };
        if self.word("not") {
            return Ok(Node::Not(Box::new(self.not(within)?)));
        }
        if self.sign("(") {
            let node = self.or(within)?;
            let closed = self.sign(")");
            self.must(closed, ")")?;
            return Ok(node);
        }
        self.test()
    }

    fn test(&mut self) -> Result<Node, String> {
        let column = match self.next("a column")? {
            Token::Word(name) | Token::Name(name) => name,
            other => {
                return Err(format!(
                    "a column was expected in place of {}",
                    shown(&other)
                ));
            }
        };
        if self.word("is") {
            let negated = self.word("not");
            let null = self.word("null");
            self.must(null, "NULL")?;
            return Ok(negate(negated, Node::Test(column, Test::IsNull)));
        }
        let negated = self.word("not");
        let node = if self.word("in") {
            Node::Test(column, Test::In(self.list()?))
        } else if self.word("like") {
            Node::Test(column, Test::Like(self.literal()?))
        } else if self.word("between") {
            let least = Test::Compare(Op::GreaterOrEqual, self.literal()?);
            let and = self.word("and");
            self.must(and, "AND")?;
            let most = Test::Compare(Op::LessOrEqual, self.literal()?);
            let least = Node::Test(column.clone(), least);
            Node::And(Box::new(least), Box::new(Node::Test(column, most)))
        } else {
            let op = match self.next("a comparison")? {
                _ if negated => return Err("IN, LIKE or BETWEEN was expected behind NOT".into()),
                Token::Sign("=") => Op::Equal,
                Token::Sign("<>" | "!=") => Op::NotEqual,
                Token::Sign("<") => Op::Less,
                Token::Sign("<=") => Op::LessOrEqual,
                Token::Sign(">") => Op::Greater,
                Token::Sign(">=") => Op::GreaterOrEqual,
                other => return Err(format!("{} is no comparison", shown(&other))),
            };
            Node::Test(column, Test::Compare(op, self.literal()?))
        };
        Ok(negate(negated, node))
    }

    fn list(&mut self) -> Result<Vec<String>, String> {
        let opened = self.sign("(");
        self.must(opened, "(")?;
        let mut literals = vec![self.literal()?];
        while self.sign(",") {
            literals.push(self.literal()?);
        }
        let closed = self.sign(")");
        self.must(closed, ")")?;
        Ok(literals)
    }

    fn literal(&mut self) -> Result<String, String> {
        match self.next("a value")? {
            Token::Number(text) | Token::Text(text) => Ok(text),
            Token::Word(word) if ["true", "false"].contains(&word.to_lowercase().as_str()) => {
                Ok(word.to_lowercase())
            }
            Token::Word(word) if word.eq_ignore_ascii_case("null") => {
                Err("nothing equals NULL: say IS NULL".into())
            }
            Token::Word(word) | Token::Name(word) => Err(format!(
                "{word} is no value: text stands in single quotes, '{word}'"
            )),
            Token::Sign(sign) => Err(format!("a value was expected in place of {sign}")),
        }
    }
}

fn negate(negated: bool, node: Node) -> Node {
    match negated {
        true => Node::Not(Box::new(node)),
        false => node,
    }
}
