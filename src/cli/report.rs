//! `--report`: what a run found and did, as JSON for programs.

use std::fs::File;
use std::io::{self, Write};
use std::time::Instant;

use serde::Serialize;

use super::check::{Checks, Verdict};
use super::failure::{Code, Failure};
use crate::kernel::{Drift, Form, Outcome, Settled, Wanted};
use crate::mesh::Mesh;
use crate::ruleset::Family;

/// What is to be reported, gathered while the work is done.
#[derive(Debug)]
pub(super) struct Report {
    began: Instant,
    /// The name of the file to write to, and the file, which is open before anything is changed; no file for stdout.
    to: Option<(String, Option<File>)>,
    content: Content,
}

#[derive(Debug, Serialize)]
struct Content {
    verb: &'static str,
    mesh: &'static str,
    /// `changed`, `in place`, `differs` or `failed`; `done` where nothing was installed or compared.
    outcome: &'static str,
    exit_code: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    families: Vec<FamilyView>,
    warnings: Vec<String>,
    differences: Vec<String>,
    checks: Checks,
    microseconds: u64,
}

#[derive(Debug, Serialize)]
struct FamilyView {
    family: u8,
    backend: &'static str,
    form: &'static str,
    rules: usize,
}

impl Report {
    /// Begins a report of `verb` for `mesh`, to be written to the file of the name `to`, `-` for stdout; nothing without a name.
    pub(super) fn begin(verb: &'static str, mesh: Mesh, to: &str) -> Result<Report, Failure> {
        let file = match to {
            "" | "-" => None,
            path => Some(File::create(path).map_err(|error| unwritable(path, &error))?),
        };
        let to = Some((to.to_owned(), file)).filter(|_| !to.is_empty());
        Ok(Report { to, ..Report::unwanted(verb, mesh) })
    }

    /// A report that nobody asks for.
    pub(super) fn unwanted(verb: &'static str, mesh: Mesh) -> Report {
        let content = Content {
            verb,
            mesh: mesh.as_str(),
            outcome: "done",
            exit_code: 0,
            error: None,
            backend: None,
            why: None,
            families: Vec::new(),
            warnings: Vec::new(),
            differences: Vec::new(),
            checks: Checks::default(),
            microseconds: 0,
        };
        Report { began: Instant::now(), to: None, content }
    }

    /// Whether it will be written.
    pub(super) fn is_wanted(&self) -> bool {
        self.to.is_some()
    }

    /// Whether it takes the place of what is printed for people.
    pub(super) fn is_printed(&self) -> bool {
        matches!(self.to, Some((_, None)))
    }

    /// What was found of the machine, to be added to.
    pub(super) fn checks(&mut self) -> &mut Checks {
        &mut self.content.checks
    }

    /// Takes in where the rules are.
    pub(super) fn settled(&mut self, wanted: &Wanted, settled: &Settled) {
        let family = |(family, form): &(Family, Form)| FamilyView {
            family: family.number(),
            backend: form.backend().as_str(),
            form: form.as_str(),
            rules: wanted.planned().find(|plan| plan.family == *family).map_or(0, |plan| plan.rule_count()),
        };
        self.content.backend = Some(settled.backends());
        self.content.why = Some(settled.why.clone());
        self.content.families = settled.families.iter().map(family).collect();
        self.content.warnings.extend(settled.warnings.iter().cloned());
    }

    /// Takes in what an installation came to.
    pub(super) fn installed(&mut self, outcome: Outcome) {
        self.content.outcome = match outcome {
            Outcome::AlreadyInPlace => "in place",
            Outcome::Changed => "changed",
        };
    }

    /// Takes in what a comparison found.
    pub(super) fn compared(&mut self, drift: &[Drift]) {
        self.content.outcome = if drift.is_empty() { "in place" } else { "differs" };
        self.content.differences = drift.iter().map(ToString::to_string).collect();
    }

    /// Writes the report. A run that went well has failed if its report cannot be written.
    pub(super) fn write(mut self, result: Result<Code, Failure>) -> Result<Code, Failure> {
        let Some((path, file)) = self.to else { return result };
        match &result {
            Ok(code) => self.content.exit_code = *code as u8,
            Err(failure) => {
                self.content.outcome = "failed";
                self.content.exit_code = failure.code as u8;
                self.content.error = Some(failure.to_string());
                let stopped_by = match failure.code {
                    Code::Deadlock => Some("kernel-release"),
                    Code::NoCapability => Some("capability"),
                    Code::UserNamespace => Some("user-namespace"),
                    _ => None,
                };
                if let Some(name) = stopped_by {
                    self.content.checks.failed(name, Verdict::Blocker, failure);
                }
            }
        }
        self.content.microseconds = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let written = super::json(&self.content).and_then(|text| match file {
            None => super::print(&text),
            Some(mut file) => file.write_all(text.as_bytes()).map_err(|error| unwritable(&path, &error)),
        });
        result.and_then(|code| written.map(|()| code))
    }
}

fn unwritable(path: &str, error: &io::Error) -> Failure {
    Failure::new(Code::Failed, format!("cannot write the report {path}: {error}"), None)
}
