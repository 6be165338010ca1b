//! The file whose text `kubectl describe pod` shows when a container has ended.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

/// Where Kubernetes puts it unless told otherwise.
const PATH: &str = "/dev/termination-log";

/// What Kubernetes keeps of it.
const LIMIT: usize = 4096;

/// Writes `line`, and a line's end, as the whole content of `/dev/termination-log`, if that file exists. It is never
/// made, and a failure is only logged, because the line is on its way to the log as well.
pub fn write(line: &str) {
    write_to(Path::new(PATH), line);
}

fn write_to(path: &Path, line: &str) {
    if !path.is_file() {
        return;
    }
    let end = (0..LIMIT).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
    let text = format!("{}\n", &line[..end]);
    let written = OpenOptions::new().write(true).truncate(true).open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    if let Err(error) = written {
        tracing::debug!("cannot write {}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_that_exists_is_written_and_only_the_last_line_stays() {
        let path = std::env::temp_dir().join(format!("mesh-init-termination-log-{}", std::process::id()));
        write_to(&path, "nothing");
        assert!(!path.exists());
        std::fs::write(&path, "something longer than what follows").unwrap();
        write_to(&path, "cannot install nat rules");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "cannot install nat rules\n");
        write_to(&path, &"é".repeat(3000));
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.len(), 4095);
        assert!(text.ends_with("é\n"));
        std::fs::remove_file(&path).unwrap();
        write_to(Path::new("/dev/null"), "no file");
        write_to(Path::new("/"), "no file");
    }
}
