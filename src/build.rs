//! Leaves the tables for unwinding, and the compilers' remarks, out of the released program.
//!
//! A panic ends the program at once (`panic = "abort"`), so that nothing ever reads them; they are a tenth of it. The
//! linker keeps them unless it is told so by a script, and only the program itself may be linked with that: tests unwind.

use std::path::Path;
use std::{env, fs};

/// Takes the sections out and leaves everything else where the linker would have put it.
const SCRIPT: &str = "SECTIONS { /DISCARD/ : { *(.eh_frame) *(.gcc_except_table .gcc_except_table.*) *(.comment) *(.gnu.warning.*) } } INSERT AFTER .text;\n";

fn main() {
    println!("cargo::rerun-if-changed=src/build.rs");
    let is = |variable: &str, value: &str| env::var(variable).is_ok_and(|text| text == value);
    // Tried with the linker of this target alone.
    let known = is("CARGO_CFG_TARGET_ARCH", "x86_64") && is("CARGO_CFG_TARGET_ENV", "gnu");
    if !(known && is("PROFILE", "release")) {
        return;
    }
    let folder = env::var_os("OUT_DIR").unwrap_or_default();
    let script = Path::new(&folder).join("without-unwinding.ld");
    match fs::write(&script, SCRIPT) {
        Ok(()) => println!("cargo::rustc-link-arg-bins=-Wl,--no-eh-frame-hdr,-T,{}", script.display()),
        Err(error) => println!("cargo::warning=the program will be larger: cannot write {}: {error}", script.display()),
    }
}
