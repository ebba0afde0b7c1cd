//! `tidelake log …`: the embedded broker's files, while no process uses them.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;
use tidelake_broker::{BrokerError, LostRecords, OfflinePartition, check, repair};
use tidelake_core::clock;

use crate::failure::Failure;
use crate::output::{Format, Grid, note};

/// Of the folder of `tidelake local`.
const LOG: &str = "log";

#[derive(Subcommand, Debug)]
pub(crate) enum LogCommand {
    /// Read every record of every partition and name the damaged ones; changes nothing
    Verify(FolderArgs),
    /// Make a damaged partition one that can be served: what is valid keeps its offsets, what is
    /// lost is named
    Repair(RepairArgs),
}

#[derive(Args, Debug)]
pub(crate) struct FolderArgs {
    /// The folder of `tidelake local`, which must not run
    #[arg(long, value_name = "FOLDER", default_value = "tidelake-data")]
    dir: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct RepairArgs {
    topic: String,
    partition: i32,
    #[command(flatten)]
    folder: FolderArgs,
}

pub(crate) fn run(command: LogCommand, format: Format) -> Result<(), Failure> {
    match command {
        LogCommand::Verify(args) => {
            let damaged = check(&folder(&args.dir)?).map_err(|error| failure(&error))?;
            if damaged.is_empty() && format.is_drawn() {
                note("every partition is sound");
                return Ok(());
            }
            verified(&damaged).print(format)?;
            if damaged.is_empty() {
                return Ok(());
            }
            let message = format!("damaged partitions: {}", damaged.len());
            Err(Failure::failed(message)
                .hint("`tidelake log repair TOPIC PARTITION` keeps what is valid of one"))
        }
        LogCommand::Repair(args) => {
            let dir = folder(&args.folder.dir)?;
            let system = clock::system();
            let lost = repair(&dir, &args.topic, args.partition, system.as_ref());
            let lost = lost.map_err(|error| failure(&error))?;
            if lost.is_empty() && format.is_drawn() {
                note("nothing is lost");
                return Ok(());
            }
            repaired(&lost).print(format)
        }
    }
}

fn verified(damaged: &[OfflinePartition]) -> Grid {
    let mut grid = Grid::new(&["topic", "partition", "reason"]);
    for found in damaged {
        grid.rows.push(vec![
            json!(found.topic),
            json!(found.partition),
            json!(found.reason),
        ]);
    }
    grid
}

fn repaired(lost: &[LostRecords]) -> Grid {
    let mut grid = Grid::new(&["lost_from", "lost_to", "bytes", "position", "segment"]);
    for lost in lost {
        grid.rows.push(vec![
            json!(lost.offsets.start),
            json!(lost.offsets.end),
            json!(lost.bytes),
            json!(lost.position),
            json!(lost.segment.display().to_string()),
        ]);
    }
    grid
}

/// The broker's folder, which must be there: a slip makes no empty log.
fn folder(dir: &Path) -> Result<PathBuf, Failure> {
    let log = dir.join(LOG);
    if log.is_dir() {
        return Ok(log);
    }
    let message = format!("there is no log in folder {}", dir.display());
    Err(Failure::failed(message).hint("--dir names the folder of `tidelake local`"))
}

fn failure(error: &BrokerError) -> Failure {
    Failure::of("the log can't be used", error.kind(), error)
        .hint("a process that uses the folder must be stopped first")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_a_log_is_told_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let args = FolderArgs {
            dir: dir.path().to_owned(),
        };
        let failure = run(LogCommand::Verify(args), Format::Json).unwrap_err();
        assert!(failure.message.starts_with("there is no log in folder"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn lost_offsets_are_named() {
        let lost = LostRecords {
            segment: "log/orders-0/0.log".into(),
            position: 7,
            bytes: 90,
            offsets: 5..8,
        };
        let row = &repaired(&[lost]).rows[0];
        assert_eq!(row[..4], [json!(5), json!(8), json!(90), json!(7)]);
    }
}
