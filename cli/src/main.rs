//! The `tidelake` program.

use std::process::ExitCode;

/// Small short-lived allocations are a good part of what a request costs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tidelake_cli::main()
}
