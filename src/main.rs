//! The program: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    mesh_init::cli::run(std::env::args_os().collect())
}
