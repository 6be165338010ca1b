//! `--report`: what a run found and did, as JSON for programs.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Instant;

use serde::Serialize;

use super::failure::{Code, Failure};
use super::probe::Check;
use crate::kernel::{Drift, Form, Outcome, Settled, Wanted};
use crate::mesh::Mesh;
use crate::ruleset::Family;

/// What is to be reported, gathered while the work is done.
#[derive(Debug)]
pub(super) struct Report {
    began: Instant,
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
    /// What `--probe` tried.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    probes: Vec<Check>,
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
    /// Begins a report of `verb` for `mesh`.
    pub(super) fn new(verb: &'static str, mesh: Mesh) -> Report {
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
            probes: Vec::new(),
            microseconds: 0,
        };
        Report { began: Instant::now(), content }
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

    /// Takes in what was tried.
    pub(super) fn probed(&mut self, checks: Vec<Check>) {
        self.content.probes = checks;
    }

    /// Writes the report to the file of that name, `-` for stdout; nothing without a name. A run that went well has failed
    /// if its report cannot be written.
    pub(super) fn write(mut self, to: &str, result: Result<Code, Failure>) -> Result<Code, Failure> {
        if to.is_empty() {
            return result;
        }
        match &result {
            Ok(code) => self.content.exit_code = *code as u8,
            Err(failure) => {
                self.content.outcome = "failed";
                self.content.exit_code = failure.code as u8;
                self.content.error = Some(failure.to_string());
            }
        }
        self.content.microseconds = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let written = super::json(&self.content).and_then(|text| match to {
            "-" => super::print(&text),
            path => write(path, &text),
        });
        result.and_then(|code| written.map(|()| code))
    }
}

fn write(path: &str, text: &str) -> Result<(), Failure> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| Failure::new(Code::Failed, format!("cannot write the report {path}: {error}"), None))
}
