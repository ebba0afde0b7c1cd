//! The gateway as a program of its own.

use std::process::ExitCode;

use tidelake_service::memory::Allocator;
use tidelake_service::program::{self, Program};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    let program = Program {
        name: "ingest-gateway",
        label: "gateway",
        about: "Takes records over HTTP into Tidelake's tables",
    };
    program::run(program, tidelake_ingest_gateway::start)
}
