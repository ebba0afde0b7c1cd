//! Lines of a script: of a file, of standard input, of the command line.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::Path;

use super::session::{Line, Lines};
use crate::failure::Failure;

/// Bytes of one line.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// What is not typed.
pub(crate) struct Script {
    shown: String,
    text: Box<dyn BufRead>,
}

impl Script {
    pub(crate) fn of_file(path: &Path) -> Result<Self, Failure> {
        if path.as_os_str() == "-" {
            return Ok(Self::of_stdin());
        }
        let shown = path.display().to_string();
        let file = File::open(path);
        let file = file.map_err(|error| Failure::failed(format!("{shown}: {error}")))?;
        Ok(Self {
            shown,
            text: Box::new(BufReader::new(file)),
        })
    }

    pub(crate) fn of_stdin() -> Self {
        Self {
            shown: "standard input".into(),
            text: Box::new(BufReader::new(std::io::stdin())),
        }
    }

    /// Each is ended, if it does not end itself.
    pub(crate) fn of_text(commands: &[String]) -> Self {
        let each = commands.iter().map(|command| {
            let is_meta = command.trim_start().starts_with('\\');
            let end = if is_meta { "" } else { "\n;" };
            format!("{command}{end}\n")
        });
        Self {
            shown: "--command".into(),
            text: Box::new(Cursor::new(each.collect::<String>())),
        }
    }
}

impl Lines for Script {
    fn next(&mut self) -> Result<Line, Failure> {
        let shown = &self.shown;
        let failed = |why: &str| Failure::failed(format!("{shown}: {why}"));
        let mut line = String::new();
        let mut bounded = self.text.by_ref().take(LINE_BYTES_MAX);
        match bounded.read_line(&mut line) {
            Ok(0) => Ok(Line::End),
            Ok(length) if length as u64 == LINE_BYTES_MAX && !line.ends_with('\n') => {
                Err(failed("a line is too long"))
            }
            Ok(_) => Ok(Line::Text(line)),
            Err(error) => Err(failed(&error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_read_line_by_line_and_commands_are_ended() {
        let mut script = Script::of_text(&["SELECT 1 -- x".into(), "\\dt".into()]);
        let mut lines = Vec::new();
        while let Line::Text(line) = script.next().unwrap() {
            lines.push(line);
        }
        assert_eq!(lines, ["SELECT 1 -- x\n", ";\n", "\\dt\n"]);
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let failure = Script::of_file(Path::new("/nowhere/x.sql")).err().unwrap();
        assert!(
            failure.message.starts_with("/nowhere/x.sql: "),
            "{}",
            failure.message
        );
    }
}
