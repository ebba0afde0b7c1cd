//! The name by which a flusher comes back to its group.
//!
//! A group gives a member that it knows by name its buckets back at once; a nameless one that died
//! is waited for until its session is over. So a flusher has a name without being given one: it is
//! kept in the folder of its key indexes, with a lock that the operating system drops when the
//! process ends, however it ends.
//!
//! Invariants:
//! - two processes of one folder have different names: each holds the lock of its own;
//! - names of two folders differ: they are random. A folder that was copied with its names is found
//!   out by the group, which fences one of the two; that one throws its copy away.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use tidelake_core::ids::IdSource;

/// Flushers that may run beside one another on one folder, for one group.
const PLACES_MAX: u32 = 64;
/// Of a UUID, as text.
const NAME_BYTES: usize = 36;
/// What a setting says to be a member without a name.
pub(crate) const NAMELESS: &str = "none";

/// A name that nobody else has while this lives.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) name: String,
    /// It was made just now: no group knows it.
    pub(crate) is_new: bool,
    /// Locked.
    file: File,
}

impl Instance {
    /// The first name of the folder, for members of the group, that no living process has. Blocking.
    ///
    /// # Errors
    /// A folder that can't be used; more than [`PLACES_MAX`] processes.
    pub(crate) fn of(folder: &Path, group: &str, ids: &dyn IdSource) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let group = group.replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', "_");
        for place in 0..PLACES_MAX {
            let path = folder.join(format!("instance-{group}-{place}"));
            check_file(&path)?;
            let mut options = OpenOptions::new();
            let mut file = options
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => return Err(error),
            }
            let name = kept(&mut file)?;
            let is_new = name.is_none();
            let name = match name {
                Some(name) => name,
                None => keep(&mut file, &ids.next_uuid().to_string())?,
            };
            return Ok(Self { name, is_new, file });
        }
        let many = format!("{PLACES_MAX} flushers have a name here");
        Err(io::Error::other(many))
    }

    /// Throws the name away: another has it.
    pub(crate) fn forget(&self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.sync_all()
    }
}

/// What is written to is a file of ours: whoever can write to the folder could lead elsewhere.
fn check_file(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => {
            let what = format!("{} is no plain file", path.display());
            Err(io::Error::other(what))
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// The name in a file; none where it was not written to its end.
fn kept(file: &mut File) -> io::Result<Option<String>> {
    let mut found = Vec::new();
    file.take(1024).read_to_end(&mut found)?;
    let (name, is_ended) = match found.split_last() {
        Some((b'\n', name)) => (name, true),
        _ => (found.as_slice(), false),
    };
    let is_name = |b: &u8| b.is_ascii_hexdigit() || *b == b'-';
    if name.len() > NAME_BYTES || !name.iter().all(is_name) {
        return Err(io::Error::other("a file of names holds something else"));
    }
    let is_whole = is_ended && name.len() == NAME_BYTES;
    Ok(is_whole.then(|| String::from_utf8_lossy(name).into_owned()))
}

fn keep(file: &mut File, name: &str) -> io::Result<String> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{name}")?;
    file.sync_all()?;
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use tidelake_core::ids::RandomIds;

    use super::*;

    fn name(instance: &Instance) -> &str {
        &instance.name
    }

    #[test]
    fn a_process_that_comes_back_has_its_name_and_two_at_once_have_two() {
        let folder = tempfile::tempdir().unwrap();
        let open = |group| Instance::of(folder.path(), group, &RandomIds).unwrap();
        let (one, two, other) = (open("g"), open("g"), open("h/1"));
        let names = [name(&one), name(&two), name(&other)].map(str::to_owned);
        assert!(names[0] != names[1] && names[0] != names[2] && names[1] != names[2]);
        // The operating system drops the lock, so nothing has to be done at the end.
        drop((one, other));
        assert_eq!(
            [name(&open("h/1")), name(&open("g"))],
            [&*names[2], &*names[0]]
        );
        assert_eq!(name(&two), names[1]);
    }

    #[test]
    fn a_name_that_was_cut_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("instance-g-0");
        let whole = "0190d1f2-0000-7000-8000-000000000001";
        let open = || Instance::of(folder.path(), "g", &RandomIds);
        for (text, is_kept) in [(format!("{whole}\n"), true), (whole.into(), false)] {
            fs::write(&path, text).unwrap();
            let found = open().unwrap();
            assert_eq!((found.name == whole, found.is_new), (is_kept, !is_kept));
            let again = found.name.clone();
            drop(found);
            assert_eq!(open().unwrap().name, again);
        }
        for half in ["", "0190d1f2", "0190d1f2-\n"] {
            fs::write(&path, half).unwrap();
            assert!(open().unwrap().is_new);
        }
    }

    #[test]
    fn a_name_that_another_has_is_thrown_away() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Instance::of(folder.path(), "g", &RandomIds).unwrap();
        let fenced = open();
        fenced.forget().unwrap();
        let name = fenced.name.clone();
        drop(fenced);
        let next = open();
        assert!(next.is_new && next.name != name);
    }

    #[test]
    fn what_is_no_name_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("instance-g-0");
        let others = folder.path().join("others");
        for text in [b"somebody's words\n".as_slice(), b"\xff\xfe", &[b'a'; 100]] {
            fs::write(&path, text).unwrap();
            assert!(Instance::of(folder.path(), "g", &RandomIds).is_err());
            assert_eq!(fs::read(&path).unwrap(), text);
        }
        fs::remove_file(&path).unwrap();
        fs::write(&others, "").unwrap();
        std::os::unix::fs::symlink(&others, &path).unwrap();
        let led = Instance::of(folder.path(), "g", &RandomIds).unwrap_err();
        assert!(led.to_string().contains("no plain file"), "{led}");
    }
}
