//! Which installation a store belongs to: everything that shares one catalog.
//!
//! ```text
//!  _tidelake/installation.json   {"format":1,"id":"…"}, create-if-absent, never changed
//! ```
//! Owns the id. It names what the processes of one installation share outside of the store, where
//! another installation may have the same names: the consumer group of the flushers. Invariant: all
//! that open one store get one id, for ever; a store from before there were ids gets one at the
//! first question.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidelake_core::ids::IdSource;
use tidelake_storage::{PutOnce, Store};

use crate::CatalogError;

const NAME: &str = "_tidelake/installation.json";
const FORMAT: u32 = 1;
/// Of an id, hexadecimal.
const DIGITS: usize = 32;

/// The id of an installation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InstallationId(Arc<str>);

impl InstallationId {
    /// The installation of the store's catalog; it is founded here where it is new. `store` is the
    /// root that the tables' folders lie under.
    ///
    /// # Errors
    /// Where the store does not answer, or holds what is no id.
    pub async fn of(store: &Store, ids: &dyn IdSource) -> Result<Self, CatalogError> {
        if let Some(found) = store.get_opt(NAME).await? {
            return read(&found);
        }
        let own = File {
            format: FORMAT,
            id: ids.next_uuid().simple().to_string(),
        };
        let bytes = serde_json::to_vec(&own)?;
        let is_ours = |found: &[u8]| read(found).is_ok_and(|found| *found.0 == own.id);
        match store.put_once(NAME, bytes.into(), is_ours).await? {
            PutOnce::Created => Ok(Self(own.id.into())),
            PutOnce::Exists(found) => read(&found),
        }
    }
}

impl InstallationId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstallationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct File {
    format: u32,
    id: String,
}

fn read(bytes: &[u8]) -> Result<InstallationId, CatalogError> {
    let reason = match serde_json::from_slice(bytes) {
        Ok(File { format: FORMAT, id }) if is_id(&id) => return Ok(InstallationId(id.into())),
        Ok(File { format: FORMAT, id }) => format!("id {id:?}, expected {DIGITS} digits"),
        Ok(File { format, .. }) => format!("format {format}, expected {FORMAT}"),
        Err(error) => error.to_string(),
    };
    Err(CatalogError::Installation { reason })
}

fn is_id(text: &str) -> bool {
    text.len() == DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use tidelake_core::ids;
    use tidelake_storage::StoreOptions;

    use super::*;

    fn memory() -> Store {
        Store::open("memory:///", &StoreOptions::default()).unwrap()
    }

    #[tokio::test]
    async fn all_that_open_one_store_get_one_id_and_keep_it() {
        let (store, source) = (memory(), ids::random());
        let ask = || InstallationId::of(&store, source.as_ref());
        let (first, second, third) = tokio::join!(ask(), ask(), ask());
        let first = first.unwrap();
        for again in [second, third, ask().await] {
            assert_eq!(again.unwrap(), first);
        }
        let other = InstallationId::of(&memory(), source.as_ref()).await;
        assert_ne!(other.unwrap(), first);
        assert_eq!(first.as_str().len(), DIGITS);
    }

    #[tokio::test]
    async fn an_id_that_can_not_be_read_is_told_and_never_replaced() {
        let store = memory();
        store.put(NAME, "{\"format\":2".into()).await.unwrap();
        let error = InstallationId::of(&store, ids::random().as_ref()).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains(NAME), "{error}");
        assert_eq!(store.get(NAME).await.unwrap(), "{\"format\":2");
    }
}
