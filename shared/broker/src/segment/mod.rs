//! Segment files of one partition: what lies on the disk, how it is found, how it is recovered.
//!
//! Owns [`file`] (one segment), [`index`] (where offsets and times are, and the sidecar file that
//! keeps it) and [`recover`] (what a folder holds after a crash). Does not own who may append, and
//! when a byte counts as durable: that is the partition.

mod disk;
mod file;
mod index;
mod recover;

pub(crate) use disk::{Disk, RealDisk};
pub(crate) use file::{Segment, segment_path, whole_batches};
pub(crate) use index::{BatchPlace, Contents, Sidecar};
pub(crate) use recover::{RecoverError, Recovered, recover};

#[cfg(test)]
pub(crate) use disk::FaultyDisk;
