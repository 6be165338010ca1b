//! The kernel's release, and what follows from it: on some releases `SO_ORIGINAL_DST`, by which a proxy learns where a
//! redirected connection was to go, puts the caller to sleep for ever. The kernel took the socket's lock twice. It
//! cannot be tried out, since nothing wakes the caller up again.

use std::fmt;

/// A release, without what the vendor has added to its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// `4.14.22`
    pub number: [u32; 3],
    /// Whether it is a candidate for that release (`4.16.0-rc1`).
    pub candidate: bool,
}

/// Why `SO_ORIGINAL_DST` must not be called.
#[doc(alias = "SO_ORIGINAL_DST")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadlock {
    /// This release has the fault; in the next one it is gone.
    Certain([u32; 3]),
    /// The documents of Kata and Linkerd say so.
    Documented,
    /// The fault came and went between two candidates.
    Candidate,
}

/// The releases that have the fault, each the only one of its series.
const FAULTY: [[u32; 3]; 5] = [[3, 18, 96], [4, 4, 118], [4, 9, 84], [4, 14, 22], [4, 15, 6]];

impl Release {
    /// The release that `text`, as `uname -r` prints it, begins with: `4.14.22-cos+`, `4.15.6-1-ARCH`, `5.4`.
    pub fn parse(text: &str) -> Option<Release> {
        let mut number = [0; 3];
        let mut rest = text;
        for (place, part) in number.iter_mut().enumerate() {
            let digits = match place {
                0 => rest,
                _ => match rest.strip_prefix('.') {
                    Some(digits) if digits.starts_with(|first: char| first.is_ascii_digit()) => digits,
                    // The third part may be missing.
                    _ if place == 2 => break,
                    _ => return None,
                },
            };
            let end = digits.find(|next: char| !next.is_ascii_digit()).unwrap_or(digits.len());
            *part = digits[..end].parse().ok()?;
            rest = &digits[end..];
        }
        Some(Release { number, candidate: rest.starts_with("-rc") })
    }

    /// Whether `SO_ORIGINAL_DST` must not be called on it.
    pub fn deadlock(&self) -> Option<Deadlock> {
        let [major, minor, patch] = self.number;
        match (self.number, self.candidate) {
            (faulty, _) if FAULTY.contains(&faulty) => Some(Deadlock::Certain([major, minor, patch + 1])),
            ([4, 14, 23..=40], _) => Some(Deadlock::Documented),
            ([4, 16, 0], true) => Some(Deadlock::Candidate),
            _ => None,
        }
    }
}

/// After "kernel 4.14.22-cos:".
impl fmt::Display for Deadlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Deadlock::Certain(_) => "SO_ORIGINAL_DST deadlocks on it, so that the proxy would hang at its first connection",
            Deadlock::Documented => {
                "the documents of Kata and Linkerd say that SO_ORIGINAL_DST deadlocks on 4.14.22 to 4.14.40; \
                 upstream, 4.14.22 had the fault and 4.14.23 has it no more"
            }
            Deadlock::Candidate => "SO_ORIGINAL_DST deadlocks on some of the candidates for 4.16",
        })
    }
}

impl Deadlock {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Deadlock::Certain([major, minor, patch]) => format!("run another kernel: the fault is gone in {major}.{minor}.{patch}"),
            Deadlock::Documented => TRUST.to_owned(),
            Deadlock::Candidate => format!("{TRUST} (4.16 has it)"),
        }
    }

    /// Whether the user may say that this kernel has the fix.
    pub fn may_be_fixed(&self) -> bool {
        !matches!(self, Deadlock::Certain(_))
    }
}

const TRUST: &str = "run a later kernel, or pass --trust-upstream-fixes if this one has upstream's fix";

#[cfg(test)]
mod tests {
    use super::*;

    fn deadlock(text: &str) -> Option<Deadlock> {
        Release::parse(text).unwrap().deadlock()
    }

    #[test]
    fn the_number_is_found_before_any_vendors_suffix() {
        for (text, number) in [
            ("6.18.44", [6, 18, 44]),
            ("4.14.22+", [4, 14, 22]),
            ("4.14.22-coreos-r1", [4, 14, 22]),
            ("4.15.6-1-ARCH", [4, 15, 6]),
            ("4.15.0-6-generic", [4, 15, 0]),
            ("4.14.22.1-microsoft", [4, 14, 22]),
            ("3.10.0-1160.el7.x86_64", [3, 10, 0]),
            ("5.4", [5, 4, 0]),
            ("5.4-rc1", [5, 4, 0]),
            ("5.4.", [5, 4, 0]),
            ("4.14.221", [4, 14, 221]),
        ] {
            assert_eq!(Release::parse(text).map(|release| release.number), Some(number), "{text}");
        }
        for text in ["", "4", "4.", "x.y", "4.x", "v4.14.22", "4.14.99999999999", "-4.1.2"] {
            assert_eq!(Release::parse(text), None, "{text}");
        }
        assert!(Release::parse("4.16.0-rc1").unwrap().candidate && !Release::parse("4.16.0").unwrap().candidate);
    }

    #[test]
    fn each_series_has_one_release_that_deadlocks() {
        for (before, bad, after) in [
            ("3.18.95", "3.18.96", "3.18.97"),
            ("4.4.117", "4.4.118", "4.4.119"),
            ("4.9.83", "4.9.84", "4.9.85"),
            ("4.14.21", "4.14.22", "4.14.41"),
            ("4.15.5", "4.15.6", "4.15.7"),
        ] {
            for suffix in ["", "+", "-1-generic", ".vendor"] {
                assert_eq!(deadlock(&format!("{before}{suffix}")), None);
                assert_eq!(deadlock(&format!("{after}{suffix}")), None);
                let found = deadlock(&format!("{bad}{suffix}")).unwrap();
                assert!(matches!(found, Deadlock::Certain(_)) && !found.may_be_fixed(), "{bad}{suffix}");
            }
        }
        assert_eq!(deadlock("4.14.22").unwrap().hint(), "run another kernel: the fault is gone in 4.14.23");
    }

    #[test]
    fn the_rest_of_the_documented_range_is_told_apart() {
        for patch in 23..=40 {
            assert_eq!(deadlock(&format!("4.14.{patch}-vendor")), Some(Deadlock::Documented));
        }
        for good in ["4.14.0", "4.14.41", "4.14.224", "4.15", "4.15.0-22-generic", "4.16", "4.16.1", "4.17-rc1", "5.4.71", "6.18.35"] {
            assert_eq!(deadlock(good), None, "{good}");
        }
        assert_eq!(deadlock("4.16.0-rc1"), Some(Deadlock::Candidate));
        let text = Deadlock::Documented.to_string();
        assert!(text.contains("4.14.22 to 4.14.40") && text.contains("4.14.23") && Deadlock::Documented.may_be_fixed());
    }
}
