//! The compactor as a program of its own.

use std::process::ExitCode;

use tidelake_service::memory::Allocator;
use tidelake_service::program::{self, Program};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    let program = Program {
        name: "compactor",
        label: "compactor",
        about: "Rewrites small files of tables into larger ones, while others read and write",
    };
    program::run(program, tidelake_compactor::start)
}
