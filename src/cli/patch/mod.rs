//! mesh-patch's command line: manifests in, patched manifests, patches or a diff out, and a report of what was changed and why.

mod accepted;
mod arguments;
mod files;
mod kustomize;
mod output;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::error::ErrorKind;

use self::arguments::{Arguments, Mode};
use self::files::Input;
use super::failure::{Code, Failure};
use super::{complain, print};
use crate::manifest::{Manifest, Namespaces, Patched};

/// Runs the program with `arguments`, of which the first is its name, and returns its exit code.
pub fn run(arguments: Vec<OsString>) -> ExitCode {
    let matches = match arguments::command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            // A closed pipe is no failure.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => return end(&Failure::usage(arguments::one_line(&error))),
    };
    match Arguments::new(&matches).and_then(|arguments| work(&arguments)) {
        Ok(code) => ExitCode::from(code as u8),
        Err(failure) => end(&failure),
    }
}

/// Ends with one line, or with several if several manifests are wrong.
fn end(failure: &Failure) -> ExitCode {
    complain(&format!("mesh-patch: error: {failure}"));
    ExitCode::from(failure.code as u8)
}

/// A file and what became of it.
struct Done<'a> {
    input: &'a Input,
    patched: Patched,
}

fn work(arguments: &Arguments) -> Result<Code, Failure> {
    let inputs = files::read(&arguments.files)?;
    if arguments.mode == Mode::InPlace && inputs.iter().any(|input| input.path.is_none()) {
        return Err(Failure::usage("--in-place: stdin cannot be changed in place; name the files"));
    }
    let Some(done) = patch(&inputs, arguments) else { return Ok(Code::Failed) };
    let unknown = |name: &&String| !done.iter().any(|done| done.patched.containers.contains(*name));
    for name in arguments.settings.keep_privileged.iter().filter(unknown) {
        complain(&format!("mesh-patch: warning: --keep-privileged: no container has the name {name:?}"));
    }
    let marked = done.iter().flat_map(|done| &done.patched.warnings).any(|warning| warning.is_marked);
    let changes = done.iter().any(|done| !done.patched.objects.is_empty());
    match arguments.mode {
        Mode::Check { diff } => {
            warn(&done);
            if diff {
                report(&done);
            }
            print(&if diff { output::diff(&done) } else { list(&done) })?;
            return Ok(if changes || marked { Code::Differs } else { Code::Done });
        }
        Mode::InPlace => {
            let changed = done.iter().filter(|done| done.patched.text != done.input.text);
            files::replace(&changed.map(|done| (done.input, done.patched.text.as_str())).collect::<Vec<_>>())?;
        }
        Mode::Print(format) => print(&output::text(&done, format)?)?,
        Mode::Diff => print(&output::diff(&done))?,
    }
    warn(&done);
    report(&done);
    Ok(Code::Done)
}

/// Patches all of the inputs, or says what is wrong with each of them.
fn patch<'a>(inputs: &'a [Input], arguments: &Arguments) -> Option<Vec<Done<'a>>> {
    let error = |input: &Input, error: &crate::manifest::Error| {
        complain(&format!("mesh-patch: error: {}: {}", input.name, one_line(&error.to_string())))
    };
    let mut namespaces = Namespaces::default();
    let mut manifests = Vec::new();
    for input in inputs {
        match Manifest::read(&input.text) {
            Ok(manifest) => {
                manifest.add_namespaces(&mut namespaces);
                manifests.push((input, manifest));
            }
            Err(problem) => error(input, &problem),
        }
    }
    let mut done = Vec::new();
    for (input, manifest) in manifests {
        match manifest.patch(&arguments.settings, &namespaces) {
            Ok(patched) => done.push(Done { input, patched }),
            Err(problems) => problems.iter().for_each(|problem| error(input, problem)),
        }
    }
    (done.len() == inputs.len()).then_some(done)
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// Says what there is to know, whatever was asked for.
fn warn(done: &[Done<'_>]) {
    for Done { input, patched } in done {
        for warning in &patched.warnings {
            let mut text = format!("mesh-patch: warning: {}: {}: {}: {}: ", input.name, warning.place, warning.object, warning.path);
            text.push_str(&warning.text);
            if warning.is_marked {
                text.push_str(
                    " says that the mesh's webhook injects this pod when it is created, which is after this; inject it now (linkerd inject \
                     --manual, istioctl kube-inject) or have the cluster patch it (the admission policy in image/)",
                );
            }
            complain(&one_line(&text));
        }
    }
}

/// Every change and the reason for it, a line each.
fn list(done: &[Done<'_>]) -> String {
    let mut text = String::new();
    for Done { input, patched } in done {
        for object in &patched.objects {
            for change in &object.changes {
                let value = |value: &Option<serde_json::Value>, none: &str| value.as_ref().map_or(none.to_owned(), ToString::to_string);
                let what = format!("{} -> {}", value(&change.old, "nothing"), value(&change.new, "nothing"));
                let line = format!("{}: {}: {}: {}: {what} ({})", input.name, change.place, object.object, change.path, change.why);
                text.push_str(&one_line(&line));
                text.push('\n');
            }
        }
    }
    text
}

/// The same on stderr, with the sum of it.
fn report(done: &[Done<'_>]) {
    let mut text = String::new();
    list(done).lines().for_each(|line| text.push_str(&format!("mesh-patch: {line}\n")));
    let objects = done.iter().map(|done| done.patched.objects.len()).sum::<usize>();
    match objects {
        0 => text.push_str("mesh-patch: nothing to change\n"),
        1 => text.push_str("mesh-patch: 1 object changed\n"),
        _ => text.push_str(&format!("mesh-patch: {objects} objects changed\n")),
    }
    // A closed stderr is no reason to fail after the work is done.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
