//! Where answers go: the terminal, a pager in front of it, a pipe, or a file.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::process::{Command, Stdio};

use crate::failure::Failure;
use crate::output::{Means, Screened, note};

/// Size of a terminal in letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub columns: usize,
    pub rows: usize,
}

/// Takes answers, and what is told beside them.
pub(crate) trait Screen {
    /// Of the terminal, where answers go to one.
    fn terminal(&self) -> Option<Size>;
    /// A drawn answer, whole.
    fn show(&mut self, text: &str) -> Result<(), Failure>;
    /// Bytes of an answer as they come. Text that goes to a terminal is screened.
    fn stream(&mut self, means: Option<Means>) -> Result<Box<dyn Write + '_>, Failure>;
    /// Answers go to this file from now on; none: where they went first.
    fn redirect(&mut self, file: Option<&str>) -> Result<(), Failure>;
    /// What is not the answer.
    fn note(&mut self, line: &str);
    fn set_size(&mut self, size: Option<Size>);
    /// Long answers go through a pager.
    fn set_pager(&mut self, on: bool);
    fn has_pager(&self) -> bool;
}

/// Standard output.
#[derive(Debug)]
pub(crate) struct Stdout {
    size: Option<Size>,
    file: Option<File>,
    /// The command, and whether it is used.
    pager: String,
    pages: bool,
}

impl Stdout {
    /// `pages` where a person sits in front.
    pub(crate) fn new(pages: bool) -> Self {
        let pager = std::env::var("PAGER")
            .ok()
            .filter(|pager| !pager.is_empty());
        let columns = crate::output::terminal_width();
        Self {
            size: columns.map(|columns| Size { columns, rows: 24 }),
            file: None,
            pager: pager.unwrap_or_else(|| "less".to_owned()),
            pages,
        }
    }

    /// True where a pager took the text.
    fn paged(&self, text: &str) -> bool {
        let fits = self
            .size
            .is_none_or(|size| text.lines().count() < size.rows);
        if !self.pages || fits {
            return false;
        }
        let mut command = Command::new("sh");
        command.args(["-c", &self.pager]).stdin(Stdio::piped());
        if std::env::var_os("LESS").is_none() {
            // Long lines are not folded, and what was read stays on the screen.
            command.env("LESS", "-FSX");
        }
        let Ok(mut pager) = command.spawn() else {
            return false;
        };
        if let Some(mut stdin) = pager.stdin.take() {
            // A pager that is left early has seen enough.
            let _left = stdin.write_all(text.as_bytes());
        }
        // Ctrl-C is the pager's while it runs. A command that is not there takes nothing.
        const NOT_FOUND: [Option<i32>; 2] = [Some(126), Some(127)];
        pager
            .wait()
            .is_ok_and(|status| !NOT_FOUND.contains(&status.code()))
    }
}

impl Screen for Stdout {
    fn terminal(&self) -> Option<Size> {
        match self.file {
            None => self.size,
            Some(_) => None,
        }
    }

    fn show(&mut self, text: &str) -> Result<(), Failure> {
        if let Some(file) = &mut self.file {
            return Ok(file.write_all(text.as_bytes())?);
        }
        if !self.paged(text) {
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes())?;
            out.flush()?;
        }
        Ok(())
    }

    fn stream(&mut self, means: Option<Means>) -> Result<Box<dyn Write + '_>, Failure> {
        if let Some(file) = &mut self.file {
            return Ok(Box::new(BufWriter::new(file)));
        }
        let is_terminal = io::stdout().is_terminal();
        Ok(match means {
            None if is_terminal => {
                let failure = Failure::usage("an answer in bytes is not for a terminal");
                return Err(failure.hint("redirect it to a file, with > FILE or \\o FILE"));
            }
            Some(means) if is_terminal => {
                Box::new(Finishing(Some(Screened::new(io::stdout().lock(), means))))
            }
            _ => Box::new(BufWriter::new(io::stdout().lock())),
        })
    }

    fn redirect(&mut self, file: Option<&str>) -> Result<(), Failure> {
        self.file = match file {
            None => None,
            Some(path) => Some(
                File::create(path).map_err(|error| Failure::failed(format!("{path}: {error}")))?,
            ),
        };
        Ok(())
    }

    fn note(&mut self, line: &str) {
        note(line);
    }

    fn set_size(&mut self, size: Option<Size>) {
        if self.size.is_some() && size.is_some() {
            self.size = size;
        }
    }

    fn set_pager(&mut self, on: bool) {
        self.pages = on;
    }

    fn has_pager(&self) -> bool {
        self.pages
    }
}

/// Writes what a screened stream holds back once nobody writes to it any more.
struct Finishing<W: Write>(Option<Screened<W>>);

impl<W: Write> Write for Finishing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Some(screened) => screened.write(bytes),
            None => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Some(screened) => screened.flush(),
            None => Ok(()),
        }
    }
}

impl<W: Write> Drop for Finishing<W> {
    fn drop(&mut self) {
        if let Some(screened) = self.0.take() {
            let _closed = screened.finish();
        }
    }
}

/// Keeps everything, for tests.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub answers: Vec<u8>,
    pub notes: Vec<String>,
    pub size: Option<Size>,
    pub file: Option<String>,
}

#[cfg(test)]
impl Screen for Kept {
    fn terminal(&self) -> Option<Size> {
        self.size
    }

    fn show(&mut self, text: &str) -> Result<(), Failure> {
        self.answers.extend_from_slice(text.as_bytes());
        Ok(())
    }

    fn stream(&mut self, _means: Option<Means>) -> Result<Box<dyn Write + '_>, Failure> {
        Ok(Box::new(&mut self.answers))
    }

    fn redirect(&mut self, file: Option<&str>) -> Result<(), Failure> {
        self.file = file.map(str::to_owned);
        Ok(())
    }

    fn note(&mut self, line: &str) {
        let safe = crate::output::shown(line, crate::output::Breaks::Stay);
        self.notes.push(safe.into_owned());
    }

    fn set_size(&mut self, size: Option<Size>) {
        self.size = size;
    }

    fn set_pager(&mut self, _on: bool) {}

    fn has_pager(&self) -> bool {
        false
    }
}
