//! Segment files of one partition: what lies on the disk, how it is found, how it is recovered.
//!
//! Owns [`file`] (one segment), [`handles`] (which files are open), [`index`] (where offsets and
//! times are, and the sidecar file that keeps it), [`scan`] (what a file holds, batch by batch),
//! [`recover`] (what a folder holds after a crash) and [`repair`] (a folder that can be served again,
//! made of a damaged one). Does not own who may append, and when a byte counts as durable: that is
//! the partition.

mod disk;
mod file;
mod handles;
mod index;
mod recover;
mod repair;
mod scan;

pub(crate) use disk::{Disk, RealDisk};
pub(crate) use file::{Segment, segment_path, whole_batches};
pub(crate) use handles::OpenFiles;
pub(crate) use index::{BatchPlace, Contents, Sidecar};
pub(crate) use recover::{Check, RecoverError, Recovered, inspect, recover};
pub(crate) use repair::repair;

#[cfg(test)]
pub(crate) use disk::FaultyDisk;
