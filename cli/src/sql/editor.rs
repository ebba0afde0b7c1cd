//! Lines as a person types them: history, many lines at a time, completion.

use std::path::PathBuf;
use std::sync::PoisonError;

use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Config, Context, Editor, Helper};

use super::lexer::is_whole;
use super::screen::Size;
use super::session::{Line, Lines, SharedWords};
use crate::failure::Failure;
use crate::output::note;

/// Entries that are kept.
const HISTORY_MAX: usize = 10_000;

/// A person in front of a terminal.
pub(crate) struct Person {
    editor: Editor<Help, FileHistory>,
    prompt: String,
    history: Option<PathBuf>,
}

impl Person {
    /// `name` is what the prompt says.
    pub(crate) fn new(name: &str, words: SharedWords) -> Result<Self, Failure> {
        let config = Config::builder()
            .max_history_size(HISTORY_MAX)
            .map_err(failed)?
            .history_ignore_space(true)
            .completion_type(CompletionType::List)
            .build();
        let mut editor = Editor::with_config(config).map_err(failed)?;
        editor.set_helper(Some(Help(words)));
        let history = history_file();
        if let Some(path) = &history {
            // There is none the first time.
            let _absent = editor.load_history(path);
        }
        Ok(Self {
            editor,
            prompt: format!("{name}> "),
            history,
        })
    }

    fn remember(&mut self, text: &str) {
        let added = self.editor.add_history_entry(text).unwrap_or(false);
        let Some(path) = self.history.as_ref().filter(|_| added) else {
            return;
        };
        if let Err(error) = self.editor.append_history(path) {
            note(&format!("history is not kept: {}: {error}", path.display()));
            self.history = None;
        }
    }
}

impl Lines for Person {
    fn next(&mut self) -> Result<Line, Failure> {
        match self.editor.readline(&self.prompt) {
            Ok(text) => {
                if !text.trim().is_empty() {
                    self.remember(text.trim_end());
                }
                Ok(Line::Text(text))
            }
            Err(ReadlineError::Interrupted) => Ok(Line::Dropped),
            Err(ReadlineError::Eof) => Ok(Line::End),
            Err(error) => Err(failed(error)),
        }
    }

    fn size(&mut self) -> Option<Size> {
        let (columns, rows) = self.editor.dimensions()?;
        Some(Size {
            columns: usize::from(columns),
            rows: usize::from(rows),
        })
    }
}

fn failed(error: ReadlineError) -> Failure {
    Failure::failed(format!("the terminal can't be read: {error}"))
}

/// `$TIDELAKE_HISTORY`, else `tidelake/history` in the folder for state.
fn history_file() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(path) = set("TIDELAKE_HISTORY") {
        return Some(path.into());
    }
    let state = set("XDG_STATE_HOME").map(PathBuf::from);
    let state = state.or_else(|| Some(PathBuf::from(set("HOME")?).join(".local/state")));
    let folder = state?.join("tidelake");
    std::fs::create_dir_all(&folder).ok()?;
    Some(folder.join("history"))
}

/// Completes, and waits for the end of a statement.
struct Help(SharedWords);

impl Helper for Help {}
impl Highlighter for Help {}

impl Hinter for Help {
    type Hint = String;
}

impl Validator for Help {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match is_whole(context.input()) {
            true => ValidationResult::Valid(None),
            false => ValidationResult::Incomplete,
        })
    }
}

impl Completer for Help {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        cursor: usize,
        _context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let words = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(words.complete(line, cursor))
    }
}
