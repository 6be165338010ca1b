//! Questions to the machine, with their answers: what `preflight` prints a line of.

use serde::Serialize;

use super::failure::Failure;

/// What an answer means for the mesh. The later, the worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// Nothing is in the way.
    Ok,
    /// Something may be in the way, or could not be found out.
    Warning,
    /// With this, `apply` fails or the pod does not work.
    Blocker,
}

/// A question and its answer.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    /// What was asked: a name that stays the same.
    pub(super) name: &'static str,
    /// Whose plan it is about, where several are looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    mesh: Option<&'static str>,
    pub(super) verdict: Verdict,
    /// What was found.
    pub(super) evidence: String,
    /// What to do about it.
    remedy: Option<String>,
}

/// Questions and their answers.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(super) struct Checks {
    pub(super) list: Vec<Check>,
    /// Whose plan those are about that come next.
    #[serde(skip)]
    pub(super) mesh: Option<&'static str>,
}

impl Checks {
    /// Adds an answer; without a remedy if that is empty.
    pub(super) fn add(&mut self, name: &'static str, verdict: Verdict, evidence: &str, remedy: &str) {
        let remedy = (!remedy.is_empty()).then(|| remedy.to_owned());
        self.list.push(Check { name, mesh: self.mesh, verdict, evidence: evidence.to_owned(), remedy });
    }

    /// Adds that nothing is in the way.
    pub(super) fn ok(&mut self, name: &'static str, evidence: &str) {
        self.add(name, Verdict::Ok, evidence, "");
    }

    /// Adds what `failure` says, in place of the work that would fail with it.
    pub(super) fn failed(&mut self, name: &'static str, verdict: Verdict, failure: &Failure) {
        let (evidence, remedy) = failure.parts();
        self.add(name, verdict, evidence, remedy);
    }

    /// The worst of all.
    pub(super) fn verdict(&self) -> Verdict {
        self.list.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Ok)
    }
}

impl Check {
    /// The line for people.
    pub(super) fn line(&self) -> String {
        let verdict = match self.verdict {
            Verdict::Ok => "ok       ",
            Verdict::Warning => "warning  ",
            Verdict::Blocker => "blocker  ",
        };
        let mut line = [verdict, self.name].concat();
        for (before, part) in [(" of ", self.mesh), (": ", Some(self.evidence.as_str())), ("; ", self.remedy.as_deref())] {
            if let Some(part) = part {
                line.push_str(before);
                line.push_str(part);
            }
        }
        line.replace('\n', " ")
    }
}
