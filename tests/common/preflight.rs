//! The report of `preflight`, read.

use super::program::Program;

/// The checks, as JSON.
#[derive(Debug)]
pub(crate) struct Checks(pub(crate) Vec<serde_json::Value>);

/// What `program`, which is to end with `code`, reports. Verdict, exit code and checks have to agree.
#[track_caller]
pub(crate) fn checks(program: Program<'_>, code: i32) -> Checks {
    let outcome = program.arg("--format=json").run().expect(code);
    let report: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}\n{outcome}"));
    let checks = Checks(report["checks"].as_array().unwrap().clone());
    let rank = |verdict: &serde_json::Value| ["ok", "warning", "blocker"].iter().position(|known| verdict == known).unwrap();
    assert_eq!(checks.0.iter().map(|check| rank(&check["verdict"])).max(), Some(rank(&report["verdict"])), "{outcome}");
    assert_eq!((code == 4, report["exit_code"].as_i64()), (report["verdict"] == "blocker", Some(i64::from(code))), "{outcome}");
    checks
}

/// Fails unless the blockers are these and no others.
#[track_caller]
pub(crate) fn assert_blocked(checks: &Checks, names: &[&str]) {
    let blockers: Vec<&str> =
        checks.0.iter().filter(|check| check["verdict"] == "blocker").map(|check| check["name"].as_str().unwrap()).collect();
    assert_eq!(blockers, names, "{checks:#?}");
}

impl Checks {
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|check| check["name"] == name)
    }

    fn text(&self, name: &str, key: &str) -> &str {
        let check = self.0.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no check {name}: {self:#?}"));
        check[key].as_str().unwrap_or_default()
    }

    #[track_caller]
    pub(crate) fn expect(&self, name: &str, verdict: &str) {
        assert_eq!(self.text(name, "verdict"), verdict, "{name}: {self:#?}");
    }

    pub(crate) fn evidence(&self, name: &str) -> &str {
        self.text(name, "evidence")
    }

    pub(crate) fn remedy(&self, name: &str) -> &str {
        self.text(name, "remedy")
    }
}
