//! The gateway as a program of its own.

use std::process::ExitCode;

use tidelake_service::program::{self, Program};

/// Small short-lived allocations are a good part of what a request costs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let program = Program {
        name: "ingest-gateway",
        label: "gateway",
        about: "Takes records over HTTP into Tidelake's tables",
    };
    program::run(program, tidelake_ingest_gateway::start)
}
