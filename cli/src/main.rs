//! The `tidelake` program.

use std::process::ExitCode;

use tidelake_service::memory::Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    tidelake_cli::main()
}
