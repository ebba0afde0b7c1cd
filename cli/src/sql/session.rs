//! The loop of the shell: lines in, statements and commands carried out one after the other.
//!
//! ```text
//!  Lines ─► Splitter ─► statement ─► ask ─► show ─► Screen
//!    ▲                └► command ──► state of the session, or a question of its own
//!    └ Ctrl-C at the prompt drops the line; while a statement runs it cancels the statement
//! ```
//! Invariant: a script ends with its first error; a person's session with none.

mod commands;
mod words;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use tidelake_core::clock::{self, SharedClock};

use super::ask::{self, Interrupts, ReadArgs};
use super::complete::Words;
use super::lexer::{Item, Splitter};
use super::screen::{Screen, Size};
use super::show;
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::moment;
use crate::output::Format;

/// Bytes of one statement: the service takes less.
const STATEMENT_BYTES_MAX: usize = 64 << 20;
/// Rows of an answer that a person is shown, unless more are asked for.
const ROWS_SHOWN: u64 = 1000;

/// What a source of lines gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Line {
    /// One line, or several.
    Text(String),
    /// Ctrl-C: what was typed so far does not count.
    Dropped,
    /// There are no more.
    End,
}

/// Where lines come from.
pub(crate) trait Lines {
    fn next(&mut self) -> Result<Line, Failure>;
    /// The terminal's size, where there is one.
    fn size(&mut self) -> Option<Size> {
        None
    }
}

/// Known words, shared with whoever completes.
pub(crate) type SharedWords = Arc<Mutex<Words>>;

/// The state of a shell.
pub(crate) struct Session<'a> {
    pub(crate) client: Client,
    pub(crate) reads: ReadArgs,
    pub(crate) format: Format,
    pub(crate) screen: &'a mut dyn Screen,
    pub(crate) interrupts: Interrupts,
    /// A person types; else it is a script.
    pub(crate) interactive: bool,
    rows_max: u64,
    expanded: bool,
    timing: bool,
    last: Option<String>,
    words: SharedWords,
    words_of: Option<Instant>,
    clock: SharedClock,
}

impl<'a> Session<'a> {
    pub(crate) fn new(
        client: Client,
        reads: ReadArgs,
        format: Format,
        screen: &'a mut dyn Screen,
        interrupts: Interrupts,
    ) -> Self {
        Self {
            client,
            reads,
            format,
            screen,
            interrupts,
            interactive: false,
            rows_max: ROWS_SHOWN,
            expanded: false,
            timing: false,
            last: None,
            words: SharedWords::default(),
            words_of: None,
            clock: clock::system(),
        }
    }

    pub(crate) fn words(&self) -> SharedWords {
        Arc::clone(&self.words)
    }

    /// Carries out all that the lines hold.
    pub(crate) async fn run(&mut self, lines: &mut dyn Lines) -> Result<(), Failure> {
        let mut splitter = Splitter::default();
        loop {
            if self.interactive {
                self.learn_words();
            }
            let items = match lines.next()? {
                Line::Text(text) => splitter.push(&text),
                Line::Dropped => {
                    splitter.clear();
                    continue;
                }
                Line::End => break,
            };
            if splitter.bytes() > STATEMENT_BYTES_MAX {
                let message = format!("a statement has more than {STATEMENT_BYTES_MAX} bytes");
                return Err(Failure::failed(message));
            }
            let size = lines.size();
            self.screen.set_size(size);
            for item in items {
                if self.item(item).await? {
                    return Ok(());
                }
            }
        }
        if self.interactive {
            return Ok(());
        }
        match splitter.finish().map_err(Failure::failed)? {
            Some(item) => self.item(item).await.map(|_quit| ()),
            None => Ok(()),
        }
    }

    /// True where the session is to end.
    async fn item(&mut self, item: Item) -> Result<bool, Failure> {
        let (line, outcome) = match item {
            Item::Statement { sql, line } => (line, self.statement(sql).await.map(|()| false)),
            Item::Command { text, before, line } => (line, self.command(&text, before).await),
        };
        match outcome {
            Err(failure) if failure.is_output_closed() => Err(failure),
            Err(failure) if self.interactive => {
                self.screen.note(failure.told().trim_end());
                Ok(false)
            }
            Err(mut failure) => {
                failure.message = format!("line {line}: {}", failure.message);
                failure.exit = Exit::Failed;
                Err(failure)
            }
            Ok(quit) => Ok(quit),
        }
    }

    async fn statement(&mut self, sql: String) -> Result<(), Failure> {
        let begun = moment::now();
        if self.interactive {
            // What was typed at the prompt; a script is to end by it, whenever it comes.
            self.interrupts.forget();
        }
        let done = self.execute(&sql).await;
        self.last = Some(sql);
        if self.timing {
            let took = done.as_ref().map_or_else(|_| begun.elapsed(), |came| *came);
            let ms = took.as_secs_f64() * 1000.0;
            self.screen.note(&format!("time: {ms:.1} ms"));
        }
        done.map(|_came| ())
    }

    async fn execute(&mut self, sql: &str) -> Result<Duration, Failure> {
        let format = match self.expanded && self.format == Format::Table {
            true => Format::Vertical,
            false => self.format,
        };
        let mut body = self.reads.request(sql, &[]);
        let limited = self.interactive && format.is_drawn() && self.rows_max > 0;
        if limited && body["max_rows"].is_null() {
            body["max_rows"] = json!(self.rows_max);
        }
        let (id, begun) = (ask::fresh_id(), moment::now());
        let (client, screen) = (&self.client, &mut *self.screen);
        let work = async {
            let response = ask::ask(client, &id, &body, format).await?;
            show::show(response, format, screen, begun).await
        };
        ask::unless_interrupted(client, &id, &mut self.interrupts, work).await
    }
}

/// One request that any shell can make.
pub(crate) async fn reach(client: &Client) -> Result<(), Failure> {
    let request = client.query(Method::GET, "/version");
    crate::client::send(request).await.map(|_version| ())
}

#[cfg(test)]
mod tests;
