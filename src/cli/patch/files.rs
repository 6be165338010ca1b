//! Manifests read from files, folders and stdin, and written back all together.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use crate::cli::failure::{Code, Failure};

/// What files in a folder have to end with to be looked at.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// A file's text.
#[derive(Debug)]
pub(super) struct Input {
    /// As messages name it.
    pub(super) name: String,
    /// Where it is, behind all links; nowhere if it came from stdin.
    pub(super) path: Option<PathBuf>,
    pub(super) text: String,
}

/// Reads all of `names`; a file that several of them lead to once, by the first.
pub(super) fn read(names: &[PathBuf]) -> Result<Vec<Input>, Failure> {
    let mut reader = Reader::default();
    for name in names {
        if name.as_os_str() == "-" {
            reader.stdin()?;
        } else if name.is_dir() {
            if !reader.folder(name)? {
                return Err(Failure::new(Code::Failed, format!("{}: no *.yaml, *.yml or *.json is in this folder", name.display()), None));
            }
        } else {
            reader.file(name)?;
        }
    }
    Ok(reader.inputs)
}

/// What has been read so far.
#[derive(Default)]
struct Reader {
    inputs: Vec<Input>,
    seen: HashSet<PathBuf>,
}

impl Reader {
    fn stdin(&mut self) -> Result<(), Failure> {
        if self.inputs.iter().any(|input| input.path.is_none()) {
            return Err(Failure::usage("stdin (-) can be read only once"));
        }
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes).map_err(|error| failed("stdin", "cannot be read", &error))?;
        self.inputs.push(Input { name: "stdin".to_owned(), path: None, text: text("stdin", bytes)? });
        Ok(())
    }

    /// The manifests in a folder and in those inside, in the order of their names. Hidden ones are left out, and folders behind
    /// links. Says whether there are any.
    fn folder(&mut self, path: &Path) -> Result<bool, Failure> {
        let cannot = |error: io::Error| failed(&path.display().to_string(), "cannot be read", &error);
        let mut entries = fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>).map_err(cannot)?;
        entries.sort_by_key(fs::DirEntry::file_name);
        let mut any = false;
        for entry in entries.iter().filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b".")) {
            let path = entry.path();
            let known = path.extension().is_some_and(|ending| ENDINGS.iter().any(|known| ending == *known));
            if entry.file_type().map_err(cannot)?.is_dir() {
                any |= self.folder(&path)?;
            } else if known && path.is_file() {
                self.file(&path)?;
                any = true;
            }
        }
        Ok(any)
    }

    fn file(&mut self, path: &Path) -> Result<(), Failure> {
        let name = path.display().to_string();
        // A pipe has no place behind its link.
        let place = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if self.seen.insert(place.clone()) {
            let bytes = fs::read(path).map_err(|error| failed(&name, "cannot be read", &error))?;
            self.inputs.push(Input { text: text(&name, bytes)?, path: Some(place), name });
        }
        Ok(())
    }
}

fn text(name: &str, bytes: Vec<u8>) -> Result<String, Failure> {
    String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        Failure::new(Code::Failed, format!("{name}: line {line}: not UTF-8"), None)
    })
}

fn failed(name: &str, what: &str, error: &io::Error) -> Failure {
    Failure::new(Code::Failed, format!("{name}: {what}: {error}"), None)
}

/// Gives files new texts. All of them are written beside the old ones first, so that what can fail has failed before anything
/// is changed; each keeps its owner and mode, and a link goes on to lead to it.
pub(super) fn replace(files: &[(&Input, &str)]) -> Result<(), Failure> {
    let mut written: Vec<Draft<'_>> = Vec::new();
    for (input, text) in files {
        let Some(path) = &input.path else { continue };
        let draft = beside(path);
        match write(path, &draft, text).inspect_err(|_| forget(&draft)) {
            Ok(()) => written.push(Draft { name: &input.name, draft, path }),
            Err(error) => {
                written.iter().for_each(|other| forget(&other.draft));
                return Err(failed(&input.name, "cannot be written", &error));
            }
        }
    }
    for (at, Draft { name, draft, path }) in written.iter().enumerate() {
        if let Err(error) = fs::rename(draft, path) {
            written[at..].iter().for_each(|other| forget(&other.draft));
            return Err(failed(name, "cannot be written", &error));
        }
    }
    Ok(())
}

/// A new text that waits beside the old one.
struct Draft<'a> {
    name: &'a str,
    draft: PathBuf,
    path: &'a Path,
}

/// A name in the same folder that nobody else has.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.mesh-patch-{}", std::process::id()))
}

fn write(path: &Path, draft: &Path, text: &str) -> io::Result<()> {
    let old = fs::metadata(path)?;
    // A file that may not be written stays as it is, though its folder would allow to replace it.
    drop(OpenOptions::new().write(true).open(path)?);
    let mut file = OpenOptions::new().write(true).create_new(true).open(draft)?;
    keep_owner(&file, &old)?;
    file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn keep_owner(file: &File, old: &fs::Metadata) -> io::Result<()> {
    let new = file.metadata()?;
    if (new.uid(), new.gid()) == (old.uid(), old.gid()) { Ok(()) } else { fchown(file, Some(old.uid()), Some(old.gid())) }
}

/// A draft that is not needed: that it cannot be removed is no news beside the failure.
fn forget(draft: &Path) {
    let _ = fs::remove_file(draft);
}
