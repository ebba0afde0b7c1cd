//! The `tidelake` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    tidelake_cli::main()
}
