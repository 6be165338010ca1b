//! Small files, read whole.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::Error;

/// The longest file that is read: a configuration file is shorter, and memory is scarce in an init container.
pub const LIMIT: u64 = 1024 * 1024;

/// The text of the file at `path`. Bytes that are not UTF-8 are replaced, since a stray one in a comment is no reason
/// to fail.
pub fn read_text(path: &Path) -> Result<String, Error> {
    let bytes = read(path)?;
    Ok(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

/// What the file at `path` holds.
pub fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let read = || {
        // Room for most such files, so that one is read in one go.
        let mut bytes = Vec::with_capacity(4096);
        File::open(path)?.take(LIMIT + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes: Vec<u8> = read().map_err(|source| Error::ReadFile { path: path.to_owned(), source })?;
    if bytes.len() as u64 > LIMIT {
        return Err(Error::FileTooLong { path: path.to_owned(), limit: LIMIT });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_file() {
        assert_eq!(
            read_text(Path::new("/nonexistent")).unwrap_err().to_string(),
            "cannot read /nonexistent: No such file or directory (os error 2)"
        );
        assert_eq!(read_text(Path::new("/proc")).unwrap_err().to_string(), "cannot read /proc: Is a directory (os error 21)");
        assert_eq!(
            read_text(Path::new("/dev/zero")).unwrap_err().to_string(),
            "cannot read /dev/zero: it is longer than the 1048576 bytes that such a file may have"
        );
    }

    #[test]
    fn a_file_is_read_whole() {
        assert!(read_text(Path::new("/proc/thread-self/status")).unwrap().starts_with("Name:"));
        assert_eq!(read_text(Path::new("/dev/null")).unwrap(), "");
    }
}
