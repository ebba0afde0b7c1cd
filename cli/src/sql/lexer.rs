//! Text to statements and commands of the shell. Pure.
//!
//! Knows just as much of SQL as tells where a statement ends: quotes, comments (which nest), dollar
//! quotes. A line that begins with a backslash, outside of all of them, is a command of the shell.

/// What text came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    /// SQL, without the semicolon that ended it.
    Statement {
        sql: String,
        /// The line where it begins, from 1.
        line: usize,
    },
    /// A command of the shell, without its backslash; and what stood before it and was not ended.
    Command {
        text: String,
        before: String,
        line: usize,
    },
}

/// What the end of the text is within.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Within {
    #[default]
    Plain,
    /// Up to the same character.
    Quote(char),
    /// `E'…'`, in which a backslash takes the next character along.
    Escapes,
    LineComment,
    /// So deep.
    Comment(usize),
    /// With its tag.
    Dollar(String),
}

/// Takes text in, gives items out.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    /// Not ended yet.
    held: String,
    within: Within,
    /// Where `held` begins, and what was taken in.
    begins: usize,
    lines: usize,
}

impl Splitter {
    /// Takes whole lines: in a piece of text the last one counts as one, too.
    pub(crate) fn push(&mut self, text: &str) -> Vec<Item> {
        let mut items = Vec::new();
        for line in text.lines() {
            self.lines += 1;
            self.line(line, &mut items);
        }
        items
    }

    /// Ends the text: what is held is a statement, unless a quote or a comment is open.
    pub(crate) fn finish(&mut self) -> Result<Option<Item>, String> {
        let open = match &self.within {
            Within::Plain | Within::LineComment => None,
            Within::Quote(quote) => Some(format!("{quote}")),
            Within::Escapes => Some("'".to_owned()),
            Within::Comment(_) => Some("/*".to_owned()),
            Within::Dollar(tag) => Some(format!("${tag}$")),
        };
        let line = self.begins;
        match open {
            Some(open) => Err(format!("line {line}: the statement's {open} is not closed")),
            None => Ok(self.take().map(|sql| Item::Statement { sql, line })),
        }
    }

    /// Forgets what is held.
    pub(crate) fn clear(&mut self) {
        self.held.clear();
        self.within = Within::Plain;
    }

    /// Bytes of what is not ended yet.
    pub(crate) fn bytes(&self) -> usize {
        self.held.len()
    }

    /// True where nothing but blanks and comments waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.within == Within::Plain && is_blank(&self.held)
    }

    fn line(&mut self, line: &str, items: &mut Vec<Item>) {
        let is_command = self.within == Within::Plain && line.trim_start().starts_with('\\');
        if is_command {
            let before = self.take().unwrap_or_default();
            items.push(Item::Command {
                text: line.trim().trim_start_matches('\\').to_owned(),
                before,
                line: self.lines,
            });
            return;
        }
        if self.is_empty() {
            // Comments before a statement are none of it: it begins where it begins.
            self.held.clear();
        }
        let mut rest = line;
        while let Some(next) = rest.chars().next() {
            let length = self.step(rest);
            if next == ';' && self.within == Within::Plain {
                let begins = self.begins;
                if let Some(sql) = self.take() {
                    items.push(Item::Statement { sql, line: begins });
                }
            } else {
                if self.held.trim().is_empty() && !next.is_whitespace() {
                    self.begins = self.lines;
                }
                self.held.push_str(&rest[..length]);
            }
            rest = &rest[length..];
        }
        self.held.push('\n');
        if self.within == Within::LineComment {
            self.within = Within::Plain;
        }
    }

    /// Bytes of the next token, and what is open behind it.
    fn step(&mut self, rest: &str) -> usize {
        let first = rest.chars().next().map_or(1, char::len_utf8);
        match &mut self.within {
            Within::Plain => return self.plain(rest, first),
            Within::LineComment => return rest.len(),
            Within::Comment(depth) => {
                if rest.starts_with("/*") {
                    *depth += 1;
                    return 2;
                }
                if rest.starts_with("*/") {
                    *depth -= 1;
                    if *depth == 0 {
                        self.within = Within::Plain;
                    }
                    return 2;
                }
            }
            Within::Quote(quote) => {
                // Two in a row end one quote and begin the next: the same in the end.
                if rest.starts_with(*quote) {
                    self.within = Within::Plain;
                }
            }
            Within::Escapes => {
                if let Some(taken) = rest.strip_prefix('\\') {
                    return 1 + taken.chars().next().map_or(0, char::len_utf8);
                }
                if rest.starts_with("''") {
                    return 2;
                }
                if rest.starts_with('\'') {
                    self.within = Within::Plain;
                }
            }
            Within::Dollar(tag) => {
                let end = format!("${tag}$");
                if rest.starts_with(&end) {
                    self.within = Within::Plain;
                    return end.len();
                }
            }
        }
        first
    }

    fn plain(&mut self, rest: &str, first: usize) -> usize {
        let opens = [("--", Within::LineComment), ("/*", Within::Comment(1))];
        for (open, within) in opens {
            if rest.starts_with(open) {
                self.within = within;
                return open.len();
            }
        }
        let in_word = self
            .held
            .ends_with(|c: char| c.is_alphanumeric() || c == '_');
        match rest.as_bytes()[0] {
            b'\'' => self.within = Within::Quote('\''),
            b'"' => self.within = Within::Quote('"'),
            b'`' => self.within = Within::Quote('`'),
            b'e' | b'E' if !in_word && rest[1..].starts_with('\'') => {
                self.within = Within::Escapes;
                return 2;
            }
            b'$' if !in_word => {
                if let Some(tag) = dollar_tag(rest) {
                    let length = tag.len() + 2;
                    self.within = Within::Dollar(tag.to_owned());
                    return length;
                }
            }
            _ => {}
        }
        first
    }

    /// What is held, if it is more than blanks and comments.
    fn take(&mut self) -> Option<String> {
        let held = std::mem::take(&mut self.held);
        self.within = Within::Plain;
        (!is_blank(&held)).then(|| held.trim().to_owned())
    }
}

/// The tag of a dollar quote that begins here: `$$`, `$tag$`; not `$1`.
fn dollar_tag(text: &str) -> Option<&str> {
    let (tag, _) = text.strip_prefix('$')?.split_once('$')?;
    let word = tag.chars().all(|c| c.is_alphanumeric() || c == '_');
    (word && !tag.starts_with(|c: char| c.is_ascii_digit())).then_some(tag)
}

/// True for blanks and comments alone.
fn is_blank(text: &str) -> bool {
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.split_once('\n').map_or("", |(_, after)| after);
        } else if rest.starts_with("/*") {
            let Some(after) = behind_comment(rest) else {
                return false;
            };
            rest = after;
        } else {
            return false;
        }
        rest = rest.trim_start();
    }
    true
}

fn behind_comment(text: &str) -> Option<&str> {
    let (mut depth, mut rest) = (0_usize, text);
    loop {
        let at = rest.find("/*").into_iter().chain(rest.find("*/")).min()?;
        let opens = rest[at..].starts_with("/*");
        rest = &rest[at + 2..];
        depth = if opens { depth + 1 } else { depth - 1 };
        if depth == 0 {
            return Some(rest);
        }
    }
}

/// True where a line editor may hand the text over: it is ended, or a command, or nothing.
pub(crate) fn is_whole(text: &str) -> bool {
    let mut splitter = Splitter::default();
    splitter.push(text);
    splitter.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statements(text: &str) -> Vec<String> {
        let mut splitter = Splitter::default();
        let mut items = splitter.push(text);
        items.extend(splitter.finish().unwrap());
        let sql = |item| match item {
            Item::Statement { sql, .. } => sql,
            Item::Command { text, .. } => format!("\\{text}"),
        };
        items.into_iter().map(sql).collect()
    }

    #[test]
    fn statements_end_where_sql_ends_them() {
        for (text, expected) in [
            ("SELECT 1; SELECT 2", &["SELECT 1", "SELECT 2"][..]),
            ("SELECT ';''x;' ; 2", &["SELECT ';''x;'", "2"]),
            ("SELECT \";\"\"\"; 2", &["SELECT \";\"\"\"", "2"]),
            ("SELECT 'a\\'; 2", &["SELECT 'a\\'", "2"]),
            ("SELECT e'a\\';b'; 2", &["SELECT e'a\\';b'", "2"]),
            ("SELECT case'x';2", &["SELECT case'x'", "2"]),
            ("SELECT 1 -- ; it's\n; 2", &["SELECT 1 -- ; it's", "2"]),
            ("/* ; /* ; */ ' */ 1; 2", &["/* ; /* ; */ ' */ 1", "2"]),
            ("SELECT $$;'$$; 2", &["SELECT $$;'$$", "2"]),
            ("SELECT $a$;$$;$a$; 2", &["SELECT $a$;$$;$a$", "2"]),
            ("SELECT $1; SELECT $2;", &["SELECT $1", "SELECT $2"]),
            ("SELECT a$b; 2$", &["SELECT a$b", "2$"]),
            (";; -- nothing\n /* or */ ;", &[]),
            ("SELECT 'ü;日'; 2", &["SELECT 'ü;日'", "2"]),
            ("SELECT\n 1\n;", &["SELECT\n 1"]),
            ("1;\n\\x\n2;", &["1", "\\x", "2"]),
            ("SELECT '\n\\x\n'; 2", &["SELECT '\n\\x\n'", "2"]),
        ] {
            assert_eq!(statements(text), expected, "{text}");
        }
    }

    #[test]
    fn text_may_come_line_by_line() {
        let text = "SELECT 'a;\nb' -- x;\n/* ;\n*/ , $q$\n;$q$;\nSELECT 2;\n";
        let whole = Splitter::default().push(text);
        let mut splitter = Splitter::default();
        let lines: Vec<_> = text.lines().flat_map(|line| splitter.push(line)).collect();
        assert_eq!(whole, lines);
        let line = |item: &Item| match item {
            Item::Statement { line, .. } | Item::Command { line, .. } => *line,
        };
        assert_eq!(lines.iter().map(line).collect::<Vec<_>>(), [1, 6]);
    }

    #[test]
    fn what_is_left_open_is_told_by_its_line() {
        let mut splitter = Splitter::default();
        splitter.push("SELECT 1;\n\nSELECT 'x");
        let open = splitter.finish().unwrap_err();
        assert_eq!(open, "line 3: the statement's ' is not closed");
        splitter.clear();
        assert!(splitter.is_empty());
        assert_eq!(splitter.finish(), Ok(None));
    }

    #[test]
    fn a_command_takes_what_was_not_ended() {
        let items = Splitter::default().push("SELECT 1\n\\watch 2");
        assert_eq!(
            items,
            [Item::Command {
                text: "watch 2".into(),
                before: "SELECT 1".into(),
                line: 2
            }]
        );
    }

    #[test]
    fn an_editor_waits_for_the_end_of_a_statement() {
        for whole in [
            "",
            "  ",
            "SELECT 1;",
            "\\dt",
            "SELECT 1; -- x",
            "SELECT 1\n\\watch",
        ] {
            assert!(is_whole(whole), "{whole}");
        }
        for open in [
            "SELECT 1",
            "SELECT ';",
            "SELECT 1; SELECT",
            "/* ;",
            "\\x\nSELECT",
        ] {
            assert!(!is_whole(open), "{open}");
        }
    }
}
