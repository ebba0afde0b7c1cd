//! Our own programs as processes: started, asked to stop, killed; their `ready` line read, their
//! output kept for the test that fails.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::wait::{WAIT_MAX, wait_until};

/// How long the last output of a program that has ended may be on its way to us. What it left
/// running may keep its streams open for ever.
const OUTPUT_MAX: Duration = Duration::from_secs(10);
/// Lines of output that are kept.
const LINES_MAX: usize = 2000;

/// A program to start.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    name: String,
    command: Command,
    ready_line: bool,
}

/// A started program. Killed when dropped; when the test panics, its last output is shown.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    ready: BTreeMap<String, String>,
    output: Output,
}

#[derive(Debug, Clone, Default)]
struct Output {
    lines: Arc<Mutex<VecDeque<String>>>,
    /// Streams that have not ended.
    open: Arc<AtomicUsize>,
}

impl Program {
    /// A program of the workspace by its name, from the target folder that the test is in; a name
    /// with a `/` is a path.
    pub fn new(name: &str) -> Self {
        let path = if name.contains('/') {
            PathBuf::from(name)
        } else {
            target_folder().join(name)
        };
        let mut command = Command::new(&path);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // A test's environment must not decide what the program does.
        for (variable, _) in std::env::vars_os() {
            let variable_name = variable.to_string_lossy();
            if variable_name.starts_with("TIDELAKE_") || variable_name.starts_with("AWS_") {
                command.env_remove(&variable);
            }
        }
        Self {
            path,
            name: name.to_owned(),
            command,
            ready_line: true,
        }
    }

    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.command.args(args.into_iter().map(Into::into));
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.command.env(name, value.into());
        self
    }

    #[must_use]
    pub fn envs(mut self, pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        self.command.envs(pairs);
        self
    }

    #[must_use]
    pub fn current_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// For programs that never print a `ready` line.
    #[must_use]
    pub fn without_ready_line(mut self) -> Self {
        self.ready_line = false;
        self
    }

    /// Starts it and waits for its `ready` line.
    ///
    /// # Errors
    /// When it is not built, ends before it is ready, or is not ready within [`WAIT_MAX`]; with its
    /// output.
    pub async fn start(mut self) -> Result<Process> {
        let mut child = self.command.spawn().with_context(|| {
            let path = self.path.display();
            format!("could not start {path}; build it: cargo build --workspace --all-targets")
        })?;
        let output = Output::default();
        output.follow(child.stdout.take());
        output.follow(child.stderr.take());
        let mut process = Process {
            name: self.name,
            child,
            ready: BTreeMap::new(),
            output,
        };
        if self.ready_line {
            process.ready = process.wait_ready().await?;
        }
        Ok(process)
    }

    /// Runs it to its end: exit status and all output.
    ///
    /// # Errors
    /// When it can't be started or does not end within [`WAIT_MAX`].
    pub async fn run(self) -> Result<(ExitStatus, String)> {
        let mut process = self.without_ready_line().start().await?;
        let status = process.wait_exit(WAIT_MAX).await?;
        Ok((status, process.output()))
    }
}

impl Process {
    /// A value of the `ready` line: of `ready gateway=http://127.0.0.1:8080`, `gateway`'s.
    ///
    /// # Errors
    /// When the line has no such name.
    pub fn ready(&self, name: &str) -> Result<&str> {
        let value = self.ready.get(name).map(String::as_str);
        value.ok_or_else(|| anyhow!("{}'s ready line has no {name}: {:?}", self.name, self.ready))
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The last lines it printed, on both streams.
    pub fn output(&self) -> String {
        self.output.text()
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// kill -9, and waits until it is gone.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.child
            .kill()
            .with_context(|| format!("could not kill {}", self.name))?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM; does not wait.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn terminate(&self) -> Result<()> {
        self.signal("TERM")
    }

    /// SIGSTOP: it is there but does nothing, as a zombie worker would be. [`Self::resume`] ends it.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn pause(&self) -> Result<()> {
        self.signal("STOP")
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn resume(&self) -> Result<()> {
        self.signal("CONT")
    }

    fn signal(&self, signal: &str) -> Result<()> {
        // The shell's own kill: nothing to install, nothing unsafe.
        let line = format!("kill -{signal} {}", self.child.id());
        let status = Command::new("sh").args(["-c", &line]).status()?;
        if !status.success() {
            bail!("could not send SIG{signal} to {}", self.name);
        }
        Ok(())
    }

    /// Waits for its end, and for all that it printed.
    ///
    /// # Errors
    /// When it has not ended after `timeout`; with its output.
    pub async fn wait_exit(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.name);
        let child = &mut self.child;
        let ended = wait_until(&what, timeout, async || child.try_wait().ok().flatten()).await;
        let status = ended.map_err(|error| anyhow!("{error}\n{}", self.output.text()))?;
        self.output.end().await;
        Ok(status)
    }

    /// SIGTERM, and waits for the orderly end.
    ///
    /// # Errors
    /// When it takes longer than [`WAIT_MAX`], or does not end with exit code 0.
    pub async fn stop(&mut self) -> Result<()> {
        self.terminate()?;
        let status = self.wait_exit(WAIT_MAX).await?;
        if !status.success() {
            bail!("{} ended with {status}\n{}", self.name, self.output());
        }
        Ok(())
    }

    async fn wait_ready(&mut self) -> Result<BTreeMap<String, String>> {
        let what = format!("{} to be ready", self.name);
        let (child, output) = (&mut self.child, &self.output);
        let waited = wait_until(&what, WAIT_MAX, async || {
            if let Some(ready) = output.ready() {
                return Some(Ok(ready));
            }
            let ended = child.try_wait().ok().flatten()?;
            // A ready line among its last ones counts.
            output.end().await;
            Some(output.ready().ok_or(ended))
        });
        match waited.await {
            Ok(Ok(ready)) => Ok(ready),
            Ok(Err(status)) => {
                bail!(
                    "{} ended with {status} before it was ready\n{}",
                    self.name,
                    self.output()
                )
            }
            Err(error) => bail!("{error}\n{}", self.output()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            let _gone = self.child.kill();
            let _gone = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- output of {} ---\n{}---", self.name, self.output.text());
        }
    }
}

impl Output {
    /// Reads a stream to its end on a thread of its own.
    fn follow(&self, stream: Option<impl Read + Send + 'static>) {
        let Some(stream) = stream else { return };
        let output = self.clone();
        output.open.fetch_add(1, Ordering::SeqCst);
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                let mut lines = output.lines();
                if lines.len() == LINES_MAX {
                    lines.pop_front();
                }
                lines.push_back(String::from_utf8_lossy(&line).into_owned());
            }
            output.open.fetch_sub(1, Ordering::SeqCst);
        });
    }

    /// Waits until all that was printed has been read.
    async fn end(&self) {
        let read = async || (self.open.load(Ordering::SeqCst) == 0).then_some(());
        let _open_still = wait_until("the output's end", OUTPUT_MAX, read).await;
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, VecDeque<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ready(&self) -> Option<BTreeMap<String, String>> {
        let lines = self.lines();
        let line = lines.iter().find_map(|line| line.strip_prefix("ready "))?;
        let pairs = line
            .split_whitespace()
            .filter_map(|pair| pair.split_once('='));
        Some(
            pairs
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        )
    }

    fn text(&self) -> String {
        self.lines()
            .iter()
            .map(|line| format!("{line}\n"))
            .collect()
    }
}

/// Tests run from `<target>/<profile>/deps`; programs are beside that.
fn target_folder() -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    let folder = test.parent().unwrap_or(Path::new("."));
    if folder.ends_with("deps") {
        folder.parent().unwrap_or(folder).to_owned()
    } else {
        folder.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Program {
        Program::new("/bin/sh").args(["-c", script])
    }

    #[tokio::test]
    async fn the_ready_line_is_read_and_a_kill_ends_it() {
        let script = "echo starting; echo ready a=http://x:1 b=2; exec sleep 100";
        let mut process = shell(script).start().await.unwrap();
        assert_eq!(process.ready("a").unwrap(), "http://x:1");
        assert_eq!(process.ready("b").unwrap(), "2");
        assert!(process.ready("c").is_err());
        assert!(process.is_running());
        process.kill().unwrap();
        assert!(!process.is_running());
    }

    #[tokio::test]
    async fn a_program_that_dies_early_shows_why() {
        let error = shell("echo no disk >&2; exit 3")
            .start()
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("before it was ready"), "{error}");
    }

    #[tokio::test]
    async fn what_is_printed_last_is_part_of_the_output() {
        let run = shell("(sleep 0.3; echo late) & echo early").without_ready_line();
        let (status, output) = run.run().await.unwrap();
        assert!(status.success());
        assert_eq!(output.lines().collect::<Vec<_>>(), ["early", "late"]);
    }

    #[tokio::test]
    async fn an_orderly_stop_is_told_from_a_bad_one() {
        let loyal = "trap 'exit 0' TERM; echo ready x=1; while :; do sleep 0.01; done";
        shell(loyal).start().await.unwrap().stop().await.unwrap();
        let bad = "trap 'exit 7' TERM; echo ready x=1; while :; do sleep 0.01; done";
        assert!(shell(bad).start().await.unwrap().stop().await.is_err());
    }

    #[tokio::test]
    async fn a_program_that_is_not_built_says_how_to_build_it() {
        let error = Program::new("no-such-program").start().await.unwrap_err();
        assert!(format!("{error:#}").contains("cargo build"), "{error:#}");
    }
}
