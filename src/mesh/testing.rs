//! For tests: options from an argument list, and rule sets as text that reads like iptables.

use std::collections::HashMap;

use super::flag::{Flag, Given, Kind};
use crate::ruleset::print::iptables::specification;
use crate::ruleset::{Chain, Ruleset, TableName};

/// Runs `read` over what `arguments` say: `--long value`, `--long=value`, `-s value`, and `NAME=value` for the environment.
pub(super) fn with<T>(flags: &'static [Flag], arguments: &[&str], read: impl FnOnce(&Given<'_>) -> T) -> T {
    let mut environment: HashMap<&str, &str> = HashMap::new();
    let mut command_line = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if !argument.starts_with('-') {
            let (name, value) = argument.split_once('=').unwrap_or_else(|| panic!("{argument} is not NAME=value"));
            environment.insert(name, value);
            continue;
        }
        let (name, glued) = argument.split_once('=').map_or((*argument, None), |(name, value)| (name, Some(value)));
        let named = |flag: &&Flag| name.strip_prefix("--").map_or(flag.short == name.chars().nth(1), |long| long == flag.long);
        let flag = flags.iter().find(named).unwrap_or_else(|| panic!("no flag {name}"));
        let value = match (glued, flag.kind) {
            (Some(value), _) => value,
            (None, Kind::Switch) => "true",
            (None, _) => rest.next().unwrap_or_else(|| panic!("{name} has no value")),
        };
        command_line.push((flag.long, value.to_owned()));
    }
    let variable = |name: &str| environment.get(name).map(|value| (*value).to_owned());
    read(&Given::new(flags, command_line, &variable))
}

/// The rules of one table, one a line, chain by chain, in the words of iptables-save.
pub(super) fn table(set: &Ruleset, name: TableName) -> String {
    let chains = set.table(name).map(|table| &table.chains[..]).unwrap_or_default();
    let line = |chain: &Chain, rule| format!("{} {}\n", chain.name, specification(rule, set.family));
    chains.iter().flat_map(|chain| chain.rules.iter().map(move |rule| line(chain, rule))).collect()
}
