//! The query API as a program of its own.

use std::process::ExitCode;

use tidelake_service::memory::Allocator;
use tidelake_service::program::{self, Program};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    let program = Program {
        name: "query-api",
        label: "query",
        about: "Answers SQL over Tidelake's tables, flushed or not",
    };
    program::run(program, tidelake_query_api::start)
}
