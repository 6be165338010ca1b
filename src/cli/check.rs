//! A question to the machine, with its answer: what `preflight` prints a line of.

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

impl Verdict {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Blocker => "blocker",
        }
    }
}

/// A question and its answer.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Check {
    /// What was asked: a name that stays the same.
    pub(super) name: &'static str,
    /// Whose plan it is about, where several are looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mesh: Option<&'static str>,
    pub(super) verdict: Verdict,
    /// What was found.
    pub(super) evidence: String,
    /// What to do about it.
    pub(super) remedy: Option<String>,
}

impl Check {
    pub(super) fn new(name: &'static str, verdict: Verdict, evidence: impl Into<String>, remedy: Option<String>) -> Check {
        Check { name, mesh: None, verdict, evidence: evidence.into(), remedy }
    }

    pub(super) fn ok(name: &'static str, evidence: impl Into<String>) -> Check {
        Check::new(name, Verdict::Ok, evidence, None)
    }

    /// What `failure` says, in place of the work that would fail with it.
    pub(super) fn failed(name: &'static str, verdict: Verdict, failure: impl Into<Failure>) -> Check {
        let (evidence, remedy) = failure.into().into_parts();
        Check::new(name, verdict, evidence, remedy)
    }

    /// The line for people.
    pub(super) fn line(&self) -> String {
        let mut line = format!("{:8} {}", self.verdict.as_str(), self.name);
        for (before, part) in [(" of ", self.mesh), (": ", Some(self.evidence.as_str())), ("; ", self.remedy.as_deref())] {
            if let Some(part) = part {
                line.push_str(before);
                line.push_str(part);
            }
        }
        line.replace('\n', " ") + "\n"
    }
}

/// The verdict on all of it.
pub(super) fn worst(checks: &[Check]) -> Verdict {
    checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Ok)
}
