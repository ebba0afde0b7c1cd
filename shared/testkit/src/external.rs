//! What is not ours: whether tests may use it, and where it is.

use std::env;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Result, bail};

/// `0` skips tests that need what is not ours; anything else, or nothing, does not.
pub const SWITCH: &str = "TIDELAKE_TEST_EXTERNAL";
/// A file that gets a line for each skipped test, so that a script can count them.
pub const SKIPPED: &str = "TIDELAKE_TEST_SKIPPED";

/// Whether a test may use `what`. False only where external tests are switched off; that is said on
/// standard error and in the file named by [`SKIPPED`]: the test then returns at once.
pub fn wanted(what: &str) -> bool {
    if env::var(SWITCH).as_deref() != Ok("0") {
        return true;
    }
    let thread = std::thread::current();
    let line = format!("{}: needs {what}\n", thread.name().unwrap_or("a test"));
    // Past the test harness, which swallows what passing tests print.
    let _closed = std::io::stderr().write_all(format!("SKIPPED {line}").as_bytes());
    if let Some(file) = env::var_os(SKIPPED) {
        let appended = OpenOptions::new().append(true).create(true).open(file);
        let _uncounted = appended.and_then(|mut file| file.write_all(line.as_bytes()));
    }
    false
}

/// A path below the cache.
///
/// # Errors
/// When it is not there: the message says how to get it.
pub fn cached(path: &str) -> Result<PathBuf> {
    let found = cache().join(path);
    if !found.exists() {
        bail!(
            "{} is missing: run scripts/setup-external, or set {SWITCH}=0 to skip such tests",
            found.display()
        );
    }
    Ok(found)
}

fn cache() -> PathBuf {
    if let Some(cache) = env::var_os("TIDELAKE_CACHE") {
        return cache.into();
    }
    let base = env::var_os("XDG_CACHE_HOME").filter(|base| !base.is_empty());
    let base = base
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache"));
    base.join("tidelake")
}
