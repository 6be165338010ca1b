//! What the fuzz targets in `tests/fuzz` call: everything that is done with what a kernel answers, fed with any bytes.
//!
//! Nothing may panic, and what is understood has to be the same when it is written and read again. The corpora, answers
//! of real kernels and what the fuzzer made of them, also run as a unit test.

/// Netlink messages as answers to everything that is asked of nf_tables.
pub fn nftables(answers: &[u8]) {
    super::nftables::fuzzing::answers(answers);
}

/// The answers to `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES`, one behind the other, as those of a table of either family.
pub fn xtables(answers: &[u8]) {
    super::legacy::fuzzing::answers(answers);
}

/// Netlink messages as answers to everything that is asked of rtnetlink.
pub fn route(answers: &[u8]) {
    super::route::fuzzing::answers(answers);
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    type Target = fn(&[u8]);

    #[test]
    fn the_corpora_do_what_they_did() {
        let targets: [(&str, Target); 3] = [("nftables", nftables), ("xtables", xtables), ("route", route)];
        let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
        let mut failed = Vec::new();
        for (name, target) in targets {
            let files: Vec<PathBuf> = fs::read_dir(corpora.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
            assert!(!files.is_empty(), "{name} has no corpus");
            failed.extend(files.into_iter().filter(|file| {
                let answers = fs::read(file).unwrap();
                std::panic::catch_unwind(|| target(&answers)).is_err()
            }));
        }
        assert!(failed.is_empty(), "{failed:?}");
    }
}
