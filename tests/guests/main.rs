//! The program on kernels that lack what others have: `make guests` boots virtual machines, each with other modules and
//! kernel parameters, and starts this in each of them. What has to come out is in [`shapes`].
//!
//! `tests/guests.sh` asks it for the shapes and builds the machines; inside one of them it is told which it is in.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

#[path = "../common/mod.rs"]
mod common;

mod checks;
mod shapes;

use std::process::ExitCode;

use shapes::{SHAPES, Shape};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        // The names of all shapes.
        ["shapes"] => SHAPES.iter().for_each(|shape| println!("{}", shape.name)),
        // The kernel parameters of a shape.
        ["parameters", name] => println!("{}", shape(name).parameters),
        // The modules of a shape, without those that they need.
        ["modules", name] => println!("{}", shape(name).modules.concat().join(" ")),
        // The path under which the program is started.
        ["program"] => println!("{}", env!("CARGO_BIN_EXE_mesh-init")),
        // Inside of a guest.
        ["check", name] if std::process::id() != 1 && std::path::Path::new("/shape").exists() => checks::run(shape(name)),
        _ => {
            eprintln!("usage: guests shapes | parameters SHAPE | modules SHAPE | program; and in a guest: check SHAPE");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn shape(name: &str) -> &'static Shape {
    SHAPES.iter().find(|shape| shape.name == name).unwrap_or_else(|| panic!("there is no shape {name}"))
}
