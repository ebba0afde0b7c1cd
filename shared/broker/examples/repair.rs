//! Names the damaged partitions of a folder, or repairs one: `repair DIR [TOPIC PARTITION]`.

use std::io::Write;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or("usage: repair DIR [TOPIC PARTITION]")?;
    let dir = PathBuf::from(dir);
    let mut out = std::io::stdout();
    match (args.next(), args.next()) {
        (Some(topic), Some(partition)) => {
            let clock = tidelake_core::clock::system();
            let lost = tidelake_broker::repair(&dir, &topic, partition.parse()?, clock.as_ref())?;
            for lost in lost {
                writeln!(out, "lost: {lost:?}")?;
            }
        }
        _ => {
            for damaged in tidelake_broker::check(&dir)? {
                writeln!(out, "damaged: {damaged:?}")?;
            }
        }
    }
    Ok(())
}
