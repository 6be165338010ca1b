//! What goes with the rules outside the packet filter: `::6` on `lo`, and policy routes for TPROXY.

use serde::Deserialize;
use serde_json::Value;

use super::Family;
use super::namespace::{Namespace, run};

/// `ip rule add fwmark MARK lookup TABLE`, and the local default route in that table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) struct PolicyRoute {
    pub(crate) family: u8,
    pub(crate) mark: u32,
    pub(crate) table: u32,
}

impl Namespace {
    fn ip_json(&self, family: Family, words: &[&str]) -> Value {
        let mut command = self.command("ip");
        command.arg(format!("-{}", family.digit())).arg("-j").args(words);
        // A routing table that was never used is an error to `ip`, and no routes to us.
        let output = command.output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Array(Vec::new()))
    }

    /// Every rule that looks at a mark, as often as it is there, whose table sends everything to `lo`.
    pub(crate) fn policy_routes(&self) -> Vec<PolicyRoute> {
        let mut found = Vec::new();
        for (family, number) in [(Family::V4, 4), (Family::V6, 6)] {
            for rule in self.ip_json(family, &["rule", "show"]).as_array().unwrap() {
                let Some(mark) = rule["fwmark"].as_str() else { continue };
                assert_eq!(rule.get("fwmask"), None, "a rule compares the whole mark: {rule}");
                let table = rule["table"].as_str().unwrap();
                let routes = self.ip_json(family, &["route", "show", "table", table]);
                let routes = routes.as_array().unwrap();
                assert_eq!(routes.len(), 1, "one route in table {table} of IPv{number}: {routes:?}");
                let local = &routes[0];
                assert_eq!((&local["type"], &local["dst"], &local["dev"]), (&"local".into(), &"default".into(), &"lo".into()), "{local}");
                let mark = u32::from_str_radix(mark.trim_start_matches("0x"), 16).unwrap();
                found.push(PolicyRoute { family: number, mark, table: table.parse().unwrap() });
            }
        }
        found.sort_unstable();
        found
    }

    /// All rules and routes of both families but those of the main and local tables' own making, as text.
    pub(crate) fn routing_text(&self) -> String {
        let mut text = String::new();
        for family in ["-4", "-6"] {
            text += &run(self.command("ip").args([family, "rule", "show"]));
            text += &run(self.command("ip").args([family, "route", "show", "table", "all"]));
        }
        // What the kernel does by itself a moment after a device comes up is left out: nothing of ours is on those. So is the
        // local route that it gives an address a moment later.
        let own = |line: &&str| !line.contains(" dev eth0 ") && !line.contains(" dev gate0 ") && !line.starts_with("local ::6 ");
        text.lines().filter(own).map(|line| format!("{line}\n")).collect()
    }

    /// Makes by hand what goes with the original's rules.
    pub(crate) fn give_routing(&self, routes: &[PolicyRoute], lo_has_6: bool) {
        for PolicyRoute { family, mark, table } in routes {
            let family = format!("-{family}");
            run(self.command("ip").args([&family, "rule", "add", "fwmark", &mark.to_string(), "lookup", &table.to_string()]));
            run(self.command("ip").args([&family, "route", "add", "local", "default", "dev", "lo", "table", &table.to_string()]));
        }
        if lo_has_6 {
            run(self.command("ip").args(["-6", "addr", "add", "::6/128", "dev", "lo"]));
        }
    }

    /// Whether `::6/128` is on `lo`.
    pub(crate) fn lo_has_6(&self) -> bool {
        run(self.command("ip").args(["-6", "-o", "addr", "show", "dev", "lo"])).contains(" ::6/128 ")
    }
}
