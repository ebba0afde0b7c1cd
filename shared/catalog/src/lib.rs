//! The catalog: which tenants and tables exist, kept as a numbered commit log on the object store.
//!
//! Owns the entries ([`TableEntry`]), the log under `_tidelake/catalog/`, a cached view of it
//! ([`Catalog`]), how tables are described to clients ([`Description`]), and the id of the installation ([`InstallationId`]). Does not own topics or Delta
//! tables: whoever creates or drops a table makes and removes those around the catalog's entry. A
//! tenant exists from its first table on.
//!
//! ```text
//!  _tidelake/catalog/00000000000000000000.json   one event a file, create-if-absent:
//!                    00000000000000000001.json   create_table | add_dead_letters | adopt_topic
//!                                                drop_table | end_logs | restore_table | claim_purge | purged
//!  _tidelake/catalog_checkpoints/…               the state at some event, for those who open it
//! ```
//!
//! Invariants:
//! - an event is valid where it stands: it was decided on a view that held every earlier event;
//! - of a table name, `drop_table` alternates with `create_table` and `restore_table`;
//! - the last version of a dropped table's log is known for ever (`end_logs`): no later table of the
//!   name uses one again;
//! - a table and its dead-letter table are entries of one event, so there is never one without the
//!   other (`add_dead_letters` is for tables made before there were any);
//! - which topic a table is filled from changes by `adopt_topic` alone, which names the one that it
//!   leaves: a table has one incarnation of its topic at a time;
//! - what a dropped table left behind is removed by one purger at a time: the one that the last
//!   `drop_table` or `claim_purge` names. `purged` says that nothing is left.
//!
//! ```
//! # use tidelake_catalog::*; use tidelake_core::*;
//! # async fn example(store: &tidelake_storage::Store) -> Result<(), CatalogError> {
//! let catalog = Catalog::open(store, clock::system(), ids::random()).await?;
//! let orders = TableId::new(TenantId::default(), TableName::new("orders").unwrap());
//! if let Some(table) = catalog.find(&orders).await? {
//!     assert_eq!(table.location(), "default/orders");
//! }
//! # Ok(()) }
//! ```

mod cache;
mod checkpoint;
mod description;
mod entry;
mod installation;
mod log;
mod topic;

pub use cache::Dropped;
pub use description::{
    Committed, Description, LIST_LOADS_MAX, LIST_MAX, ListPart, Listed, TableList, TopicNote,
    looked_at,
};
pub use entry::{LastVersions, TableEntry, TableMode, Topics, location};
pub use installation::InstallationId;
pub use log::{AddTable, Catalog, CatalogError, DropTable};
pub use topic::{FoundTopic, TopicChanged, TopicFault};
