//! The flusher as a program of its own.

use std::process::ExitCode;

use tidelake_service::program::{self, Program};

/// Small short-lived allocations are a good part of what a request costs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let program = Program {
        name: "flusher",
        label: "flusher",
        about: "Turns the log of each table into Parquet files, exactly once",
    };
    program::run(program, tidelake_flusher::start)
}
