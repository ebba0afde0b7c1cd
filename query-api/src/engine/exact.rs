//! Tables as an earlier answer has seen them: one version, and the tail up to given offsets.
//!
//! Owns which of a request's positions belong to a table. An answer that is read in parts, one after
//! another or by several nodes, is one answer only if each part reads the same rows; what can't be
//! read again is an error, never other rows.

use std::sync::Arc;

use tidelake_core::TableId;

use super::resolve::{Position, committed};
use super::{Engine, Seen};
use crate::admission::Running;
use crate::error::QueryError;
use crate::request::{Consistency, Request, Tokens};
use crate::sql::AsOf;

impl Engine {
    /// The table as the request says that it was seen.
    pub(super) async fn exactly(
        &self,
        id: &TableId,
        rows: bool,
        request: &Request,
        running: &Running,
    ) -> Result<Position, QueryError> {
        let wrong = |reason: String| Err(QueryError::request("positions", reason));
        if request.as_of != AsOf::Latest
            || request.tokens != Tokens::None
            || request.consistency != Consistency::Latest
        {
            let reason = "exact positions go with no version, token or consistency beside them";
            return wrong(reason.to_owned());
        }
        let mut named = request.exactly.iter().filter(|seen| seen.table == *id);
        let seen = match (named.next(), named.next()) {
            (Some(seen), None) => seen,
            (None, _) => return wrong(format!("those of table {id} are missing")),
            (Some(_), Some(_)) => return wrong(format!("those of table {id} are given twice")),
        };
        let entry = self.entry(id).await?;
        let version = AsOf::Version(seen.version);
        let pinned = self.inner.pins.past(&entry, &version).await?;
        if !rows || *seen == Seen::committed(&pinned) {
            return Ok(committed(pinned));
        }
        let (tails, positions) = (&self.inner.tails, &seen.positions);
        let deadline = running.deadline();
        let view = Box::pin(tails.exactly(&entry, pinned, positions, deadline)).await?;
        Ok(Position {
            pinned: Arc::clone(&view.pinned),
            seen: seen.clone(),
            view: Some(view),
        })
    }
}
