//! The program: see the library.

#![no_main]

mesh_init::main_is!(mesh_init::cli::run);
