//! Create-if-absent, with lost answers resolved.
//!
//! A store may do the put and lose the answer; its client may then repeat the put and be told that
//! the object exists: its own. So neither "exists" nor an error is believed: the object is read back,
//! and `is_ours` decides by what only our attempt can have written (a unique id).

use bytes::Bytes;
use object_store::{ObjectStore, PutMode, PutPayload};

use crate::backoff::{Backoff, salt_of};
use crate::error::{Class, StorageError};
use crate::{Result, Store};

/// Who holds the name now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutOnce {
    /// We do: this call wrote it, or an earlier attempt of ours whose answer got lost.
    Created,
    /// Someone else does; these are their bytes.
    Exists(Bytes),
}

impl Store {
    /// Writes `bytes` under `rel` if the name is free. `is_ours` tells our own bytes from those of
    /// every other writer, of other attempts too.
    ///
    /// [`StorageError::OutcomeUnknown`] where the store fell silent: the same call, with the same
    /// bytes, may be repeated later and will tell.
    pub async fn put_once(
        &self,
        rel: &str,
        bytes: Bytes,
        is_ours: impl Fn(&[u8]) -> bool + Send + Sync,
    ) -> Result<PutOnce> {
        let path = self.path(rel);
        let mut backoff = Backoff::new(self.retry, salt_of(path.as_ref()));
        let mut doubtful = false;
        loop {
            let payload = PutPayload::from_bytes(bytes.clone());
            let put = self
                .inner
                .put_opts(&path, payload, PutMode::Create.into())
                .await;
            let Err(error) = put else {
                return Ok(PutOnce::Created);
            };
            match Class::of(&error) {
                Class::Exists => {}
                Class::Transient | Class::Other => doubtful = true,
                // Refused before anything was written. If an earlier attempt is in doubt, so is
                // the whole.
                _ if !doubtful => return Err(self.error(rel, error)),
                _ => {}
            }
            tracing::debug!(%path, %error, "put-if-absent without a win, reading back");
            match self.get_opt(rel).await {
                Ok(Some(found)) if is_ours(&found) => return Ok(PutOnce::Created),
                Ok(Some(found)) => return Ok(PutOnce::Exists(found)),
                // Nothing there: the put failed, or is still on its way, or (S3's 409) met another
                // put that failed. Repeating is safe, at most one can win.
                Ok(None) => {}
                Err(read) if !doubtful => return Err(read),
                Err(_) => {}
            }
            if !backoff.wait().await {
                return Err(if doubtful {
                    StorageError::OutcomeUnknown {
                        at: self.url_of(rel),
                    }
                } else {
                    self.error(rel, error)
                });
            }
        }
    }
}
