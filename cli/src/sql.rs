//! `tidelake sql`: a shell for SQL, and scripts of it.
//!
//! ```text
//!  editor (a person) ┐
//!  script (-c, -f, standard input) ┴► session ─► lexer, meta ─► ask ─► show ─► screen
//! ```
//! `tidelake query` shares everything from `ask` on.

pub(crate) mod ask;
mod complete;
mod editor;
mod lexer;
mod meta;
pub(crate) mod screen;
mod script;
mod session;
pub(crate) mod show;

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;

use self::ask::{Interrupts, ReadArgs};
use self::editor::Person;
use self::screen::Stdout;
use self::script::Script;
use self::session::Session;
use crate::Global;
use crate::client::Client;
use crate::failure::Failure;
use crate::output::note;

#[derive(Args, Debug, Default)]
pub(crate) struct SqlArgs {
    /// Run these statements and end (repeat for more)
    #[arg(short, long, value_name = "SQL")]
    command: Vec<String>,
    /// Run the statements of a file and end; - reads standard input
    #[arg(short, long, value_name = "FILE", conflicts_with = "command")]
    file: Option<PathBuf>,
    #[command(flatten)]
    reads: ReadArgs,
}

impl SqlArgs {
    /// A shell, or standard input.
    pub(crate) fn reading(reads: ReadArgs) -> Self {
        Self {
            reads,
            ..Self::default()
        }
    }
}

/// Exit code 1 where a script's statement fails, which ends it.
pub(crate) async fn run(args: SqlArgs, global: &Global) -> Result<(), Failure> {
    let client = Client::new(global)?;
    let interrupts = Interrupts::of_signals()?;
    let is_script = !args.command.is_empty() || args.file.is_some();
    let person = !is_script && std::io::stdin().is_terminal();
    let mut screen = Stdout::new(person && std::io::stdout().is_terminal());
    let reads = args.reads.known(global);
    let mut session = Session::new(client, reads, global.output, &mut screen, interrupts);
    if !person {
        let mut script = match (&args.file, args.command.is_empty()) {
            (Some(path), _) => Script::of_file(path)?,
            (None, false) => Script::of_text(&args.command),
            (None, true) => Script::of_stdin(),
        };
        return session.run(&mut script).await;
    }
    session.interactive = true;
    // Said once and first, rather than with every statement.
    if let Err(failure) = session::reach(&session.client).await {
        note(failure.told().trim_end());
    }
    note("statements end with ;  \\? is help, \\q ends");
    let name = global.profile.as_deref().unwrap_or("tidelake");
    let mut person = Person::new(name, session.words())?;
    session.run(&mut person).await
}
