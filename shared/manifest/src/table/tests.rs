//! A table's log over a store: written, read, checkpointed, raced, and met by other engines.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use tidelake_core::clock::ManualClock;
use tidelake_core::{Bucket, ErrorKind, Watermark};
use tidelake_schema::TableSchema;
use tidelake_schema::delta::schema_string;
use tidelake_storage::faults::{Fault, Gate, Odds, Rule};
use tidelake_storage::{Operation, StorageError};

use super::*;
use crate::action::{
    Action, Add, Format, Metadata, Protocol, Remove, TAG_BUCKET, Txn, write_commit,
};
use crate::commit_file::Commit;
use crate::conflict::Conflict;
use crate::features::NewTable;
use crate::lifetime::{CreateOutcome, CreateTable};
use crate::log_files::checkpoint_name;
use crate::rebase::{Rebased, rebase};
use crate::stats::Stats;

use crate::testing::*;
use crate::transaction::{CommitOutcome, Transaction};

mod checkpoints;
mod commits;
mod engines;
mod lifetime;
mod model;
mod reading;
mod sleepers;
mod unfinished;
