//! Legacy tables, any bytes instead of the kernel's.

#![no_main]

libfuzzer_sys::fuzz_target!(|answers: &[u8]| mesh_init::kernel::fuzzing::xtables(answers));
