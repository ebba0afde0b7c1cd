//! The flusher as a program of its own.

use std::process::ExitCode;

use tidelake_service::memory::Allocator;
use tidelake_service::program::{self, Program};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    let program = Program {
        name: "flusher",
        label: "flusher",
        about: "Turns the log of each table into Parquet files, exactly once",
    };
    program::run(program, tidelake_flusher::start)
}
