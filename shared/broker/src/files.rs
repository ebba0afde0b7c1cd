//! Small files that are replaced as a whole: after a crash there is the old content or the new.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The field of a JSON file that holds the checksum of all others.
const CHECKSUM: &str = "crc32c";

/// A small JSON file, with a checksum: one digit that changes is a topic of another id, or a producer
/// id that is given out twice.
pub(crate) fn encode<T: Serialize>(content: &T) -> Vec<u8> {
    let mut content = serde_json::to_value(content).expect("text and numbers are JSON");
    let checksum = checksum(&content);
    content[CHECKSUM] = checksum.into();
    serde_json::to_vec_pretty(&content).expect("a value is JSON")
}

/// Reads what [`encode`] wrote, or why it can't be. Files of before have no checksum.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let mut content: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let found = content
        .as_object_mut()
        .and_then(|fields| fields.remove(CHECKSUM));
    if let Some(found) = found {
        let computed = checksum(&content);
        if found.as_u64() != Some(u64::from(computed)) {
            return Err(format!("checksum {found} expected, {computed} computed"));
        }
    }
    serde_json::from_value(content).map_err(|error| error.to_string())
}

fn checksum(content: &Value) -> u32 {
    crc32c::crc32c(content.to_string().as_bytes())
}

/// Replaces `path` with `content`, durably.
pub(crate) fn write_atomic(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(parent) => sync_dir(parent),
        None => Ok(()),
    }
}

/// Makes creations, renames and removals within `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
