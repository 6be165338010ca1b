//! The program that patches manifests: see the library's `manifest`.

use std::process::ExitCode;

fn main() -> ExitCode {
    mesh_init::cli::patch::run(std::env::args_os().collect())
}
