//! The release binary: static, small, and with help that tells everything that it takes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use mesh_init::mesh::flag::{Flag, Kind};
use mesh_init::mesh::{istio, linkerd};

/// The release binary of this source, for the target that the tests were built for.
fn release() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        // target/TRIPLE/debug/mesh-init, or target/debug/mesh-init where no target was named.
        let profile = Path::new(env!("CARGO_BIN_EXE_mesh-init")).parent().unwrap();
        let above = profile.parent().unwrap();
        let triple = above.file_name().unwrap().to_str().unwrap();
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--release", "--bin", "mesh-init"]).current_dir(env!("CARGO_MANIFEST_DIR"));
        if triple.matches('-').count() >= 2 {
            build.args(["--target", triple, "--target-dir"]).arg(above.parent().unwrap());
        } else {
            build.arg("--target-dir").arg(above);
        }
        let output = build.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        above.join("release/mesh-init")
    })
}

fn number(bytes: &[u8], at: usize, length: usize) -> usize {
    bytes[at..at + length].iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

/// The segments of a 64 bit ELF file: type, offset and size in the file.
fn segments(elf: &[u8]) -> Vec<(usize, usize, usize)> {
    assert_eq!(&elf[..6], b"\x7fELF\x02\x01", "64 bits, least significant byte first");
    let (table, size, count) = (number(elf, 32, 8), number(elf, 54, 2), number(elf, 56, 2));
    (0..count).map(|index| table + index * size).map(|at| (number(elf, at, 4), number(elf, at + 8, 8), number(elf, at + 32, 8))).collect()
}

#[test]
fn it_needs_no_other_file() {
    const DYNAMIC: usize = 2;
    const INTERPRETER: usize = 3;
    const NEEDED: usize = 1;
    let elf = fs::read(release()).unwrap();
    let segments = segments(&elf);
    assert!(segments.len() > 2, "{segments:?}");
    assert!(segments.iter().all(|(kind, _, _)| *kind != INTERPRETER), "the binary has an interpreter");
    for (_, offset, size) in segments.iter().filter(|(kind, _, _)| *kind == DYNAMIC) {
        let tags: Vec<usize> = (*offset..offset + size).step_by(16).map(|at| number(&elf, at, 8)).collect();
        assert!(!tags.contains(&NEEDED), "the binary needs a library");
    }
    // In a program that is linked as most are, both are found.
    let usual = fs::read("/bin/sh").unwrap();
    let usual = self::segments(&usual);
    assert!([DYNAMIC, INTERPRETER].iter().all(|wanted| usual.iter().any(|(kind, _, _)| kind == wanted)), "{usual:?}");
}

#[test]
fn it_is_small() {
    let size = fs::metadata(release()).unwrap().len();
    // 1.0 MiB with musl, 1.7 MiB with a static glibc.
    let bound = if cfg!(target_env = "musl") { 1_048_576 } else { 1_782_579 };
    assert!(size < bound, "{size} bytes; the bound is {bound}");
}

/// Starts it with these arguments, the first of which is its name; its output if it ends well.
fn told(words: &[&str]) -> String {
    use std::os::unix::process::CommandExt;
    let output = Command::new(release()).arg0(words[0]).args(&words[1..]).env_clear().stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{words:?}: {}\n{text}", String::from_utf8_lossy(&output.stderr));
    text
}

/// What `help` does not tell of `flags`.
fn untold(help: &str, flags: &[Flag]) -> Vec<String> {
    let words: Vec<&str> = help.split(|c: char| !(c.is_ascii_alphanumeric() || "-_$".contains(c))).collect();
    let lacks = |word: &String| !words.contains(&word.as_str());
    let names = |flag: &Flag| {
        let short = flag.short.map(|short| format!("-{short}"));
        let variables = flag.env.iter().map(|name| format!("${name}"));
        [format!("--{}", flag.long)].into_iter().chain(short).chain(variables).collect::<Vec<_>>()
    };
    flags.iter().flat_map(names).filter(lacks).collect()
}

/// Options of our own.
const OURS: [&str; 8] = ["backend", "log-format", "log-level", "deadline", "netns", "pod-ip", "dns-server", "group-file"];

fn ours() -> Vec<Flag> {
    OURS.map(|long| Flag { long, short: None, kind: Kind::Value, env: &[], default: "", help: "" }).into()
}

#[test]
fn the_version_is_told() {
    assert_eq!(told(&["mesh-init", "--version"]), format!("mesh-init {}\n", env!("CARGO_PKG_VERSION")));
}

/// What would be printed must not get into a socket that got a closed file's number.
#[test]
fn standard_files_may_be_closed() {
    let run = |script: &str| {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", script, "sh"]).arg(release()).args(["dump", "istio"]);
        shell.output().unwrap()
    };
    for closed in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"] {
        let output = run(&format!("exec strace -f -e trace=socket,openat,write -o /dev/fd/9 \"$@\" 9>&1 {closed}"));
        let trace = String::from_utf8_lossy(&output.stdout);
        let numbers: Vec<&str> = trace.lines().filter(|line| line.contains("socket(")).filter_map(|line| line.rsplit(' ').next()).collect();
        assert!(!numbers.is_empty(), "{closed}: {trace}");
        assert!(numbers.iter().all(|number| !["0", "1", "2"].contains(number)), "{closed}: {trace}");
        assert!(trace.contains("/dev/null\", O_RDWR"), "{closed}: {trace}");
    }
}

/// A reader that goes away is no reason to be killed by SIGPIPE.
#[test]
fn a_closed_pipe_is_an_error_of_the_writing() {
    let mut program = Command::new(release());
    program.args(["dump", "istio", "--pod-ip", "10.9.0.2"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = program.stdout(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write to stdout: Broken pipe"), "{output:?}");
}

#[test]
fn the_help_tells_verbs_names_and_exit_codes() {
    let help = told(&["mesh-init", "--help"]);
    for word in ["apply", "verify", "remove", "dump", "istio-iptables", "pilot-agent", "linkerd2-proxy-init", "proxy-init"] {
        assert!(help.contains(word), "{word}: {help}");
    }
    for code in ["0 done", "1 failed", "2 usage", "3 ", "10 ", "11 ", "12 ", "13 ", "14 "] {
        assert!(help.contains(code), "{code}: {help}");
    }
}

#[test]
fn the_help_of_every_verb_tells_every_flag() {
    for verb in ["apply", "verify", "remove", "dump"] {
        let help = told(&["mesh-init", verb, "--help"]);
        assert!(help.contains("istio") && help.contains("linkerd"), "{help}");
        assert_eq!(untold(&help, &ours()), Vec::<String>::new(), "{verb}");
        for (mesh, flags) in [("istio", istio::FLAGS), ("linkerd", linkerd::FLAGS)] {
            let help = told(&["mesh-init", verb, mesh, "--help"]);
            assert_eq!(untold(&help, &ours()), Vec::<String>::new(), "{verb} {mesh}");
            let flags = if verb == "remove" { &[] } else { flags };
            assert_eq!(untold(&help, flags), Vec::<String>::new(), "{verb} {mesh}");
        }
    }
    for words in [&["dump", "--help"][..], &["dump", "live", "--help"], &["dump", "istio", "--help"]] {
        let help = told(&[&["mesh-init"], words].concat());
        assert!(["--format", "--family", "iptables", "json"].iter().all(|word| help.contains(word)), "{help}");
    }
}

#[test]
fn the_help_of_every_drop_in_tells_every_flag() {
    for words in [&["istio-iptables", "--help"][..], &["pilot-agent", "istio-iptables", "--help"], &["mesh-init", "istio-iptables", "-h"]] {
        let help = told(words);
        assert_eq!([untold(&help, istio::FLAGS), untold(&help, &ours())].concat(), Vec::<String>::new(), "{words:?}");
    }
    for words in [&["linkerd2-proxy-init", "--help"][..], &["proxy-init", "-h"], &["mesh-init", "-p", "1", "--help"]] {
        let help = told(words);
        assert_eq!([untold(&help, linkerd::FLAGS), untold(&help, &ours())].concat(), Vec::<String>::new(), "{words:?}");
    }
}

#[test]
fn the_readme_tells_every_flag_and_variable() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("README.md");
    let lacks = |word: &String| !readme.contains(word.as_str());
    let mut missing: Vec<String> = [istio::FLAGS, linkerd::FLAGS, &ours()]
        .into_iter()
        .flatten()
        .flat_map(|flag| [format!("--{}", flag.long)].into_iter().chain(flag.env.iter().map(|name| (*name).to_owned())))
        .filter(lacks)
        .collect();
    missing.extend(OURS.map(|long| format!("MESH_INIT_{}", long.to_uppercase().replace('-', "_"))).into_iter().filter(lacks));
    assert_eq!(missing, Vec::<String>::new());
}
