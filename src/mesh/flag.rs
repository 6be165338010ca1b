//! Flags as tables: what a mesh's original tool accepts, and the values that were given, each with the place it came
//! from, so that an error can name it.

use std::fmt;

use super::value;

/// How a flag takes its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `--flag`, `--flag=true`, `--flag=false`; never `--flag false`.
    Switch,
    /// `--flag value`; the last one wins.
    Value,
    /// `--flag value`; values add up, each a comma separated list.
    List,
}

/// One flag of an original tool.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// The long name, without dashes.
    pub long: &'static str,
    /// The one-letter name.
    pub short: Option<char>,
    /// How it takes its value.
    pub kind: Kind,
    /// Environment variables that set it, the later one winning over the earlier.
    pub env: &'static [&'static str],
    /// The value when nothing is said; empty for none.
    pub default: &'static str,
    /// One line of help.
    pub help: &'static str,
}

/// Where a value was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// On the command line, by this long name.
    Flag(&'static str),
    /// In this environment variable.
    Env(&'static str),
    /// Nowhere: the default.
    Default,
}

/// `--flag` or `$VARIABLE`, as messages name it.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag(long) => write!(f, "--{long}"),
            Origin::Env(name) => write!(f, "${name}"),
            Origin::Default => f.write_str("the default"),
        }
    }
}

/// A flag's value as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// What was said; the values of a [`Kind::List`] joined by commas.
    pub text: String,
    /// Where it was said.
    pub origin: Origin,
}

impl Setting {
    /// The value as `read` understands it.
    pub fn read<T>(&self, read: impl FnOnce(&str) -> Result<T, String>) -> Result<T, BadValue> {
        read(&self.text).map_err(|problem| self.bad(&self.text, problem))
    }

    /// The value as a comma separated list, each item as `read` understands it. Space around items is dropped, and so
    /// are empty items. An error names the item.
    pub fn read_list<T>(&self, read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, BadValue> {
        self.items().map(|item| read(item).map_err(|problem| self.bad(item, problem))).collect()
    }

    /// The items of a comma separated list, without the space around them and without empty ones.
    pub fn items(&self) -> impl Iterator<Item = &str> {
        self.text.split(',').map(str::trim).filter(|item| !item.is_empty())
    }

    /// The value of a switch. An environment variable that is set but empty turns it off, as in the originals.
    pub fn switch(&self) -> Result<bool, BadValue> {
        if self.text.is_empty() && matches!(self.origin, Origin::Env(_)) { Ok(false) } else { self.read(value::boolean) }
    }

    /// The complaint that `value`, all or part of this setting, has `problem`.
    pub fn bad(&self, value: &str, problem: impl Into<String>) -> BadValue {
        BadValue { origin: self.origin.clone(), value: value.to_owned(), problem: problem.into() }
    }
}

/// What a program was told: flags from the command line and the environment.
pub struct Given<'a> {
    flags: &'static [Flag],
    command_line: Vec<(&'static str, String)>,
    environment: &'a dyn Fn(&str) -> Option<String>,
}

impl<'a> Given<'a> {
    /// `command_line` holds the long name and the text of each flag found there, in order; a switch without a value
    /// has the text `true`.
    pub fn new(
        flags: &'static [Flag],
        command_line: Vec<(&'static str, String)>,
        environment: &'a dyn Fn(&str) -> Option<String>,
    ) -> Given<'a> {
        Given { flags, command_line, environment }
    }

    /// An environment variable that no flag stands for. Set but empty is set.
    pub fn env(&self, name: &'static str) -> Option<Setting> {
        (self.environment)(name).map(|text| Setting { text, origin: Origin::Env(name) })
    }

    /// The value of the flag called `long`: the command line before the environment before the default.
    ///
    /// # Panics
    /// When no such flag is in the table: a mistake in this program, found by its first test.
    pub fn get(&self, long: &'static str) -> Setting {
        let Some(flag) = self.flags.iter().find(|flag| flag.long == long) else { panic!("no flag --{long} in the table") };
        let mut said = self.command_line.iter().filter(|(name, _)| *name == long).map(|(_, text)| text.as_str());
        let text = match flag.kind {
            Kind::List => said.map(str::to_owned).reduce(|list, more| list + "," + &more),
            Kind::Switch | Kind::Value => said.next_back().map(str::to_owned),
        };
        match text {
            Some(text) => Setting { text, origin: Origin::Flag(long) },
            None => flag
                .env
                .iter()
                .rev()
                .find_map(|name| self.env(name))
                .unwrap_or_else(|| Setting { text: flag.default.to_owned(), origin: Origin::Default }),
        }
    }
}

/// A value that a flag, or the environment variable that stands for it, does not take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {value:?} {problem}")]
pub struct BadValue {
    /// The flag or variable.
    pub origin: Origin,
    /// What was said.
    pub value: String,
    /// What is wrong with it and what is allowed, to be read after the value: `is not a port (1 to 65535)`.
    pub problem: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[
        Flag { long: "on", short: None, kind: Kind::Switch, env: &["ON", "ALSO_ON"], default: "false", help: "" },
        Flag { long: "one", short: Some('o'), kind: Kind::Value, env: &["ONE"], default: "d", help: "" },
        Flag { long: "many", short: None, kind: Kind::List, env: &[], default: "", help: "" },
    ];

    fn nothing(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn the_default_holds_when_nothing_is_said() {
        let given = Given::new(FLAGS, Vec::new(), &nothing);
        assert_eq!(given.get("one"), Setting { text: "d".into(), origin: Origin::Default });
        assert!(!given.get("on").switch().unwrap());
    }

    #[test]
    fn the_later_variable_wins_and_the_command_line_wins_over_both() {
        let both = |name: &str| match name {
            "ON" => Some("true".to_owned()),
            "ALSO_ON" => Some("false".to_owned()),
            _ => None,
        };
        assert_eq!(Given::new(FLAGS, Vec::new(), &both).get("on").origin, Origin::Env("ALSO_ON"));
        let given = Given::new(FLAGS, vec![("on", "true".into())], &both);
        assert!(given.get("on").switch().unwrap());
    }

    #[test]
    fn an_empty_variable_is_set_and_turns_a_switch_off() {
        let empty = |name: &str| (name == "ALSO_ON" || name == "ONE").then(String::new);
        let given = Given::new(FLAGS, Vec::new(), &empty);
        assert_eq!(given.get("one").text, "");
        assert!(!given.get("on").switch().unwrap());
        let typed = Given::new(FLAGS, vec![("on", String::new())], &empty);
        assert_eq!(typed.get("on").switch().unwrap_err().origin, Origin::Flag("on"));
    }

    #[test]
    fn the_last_value_wins_and_lists_add_up() {
        let said = vec![("one", "a".into()), ("many", "1, 2".into()), ("one", "b".into()), ("many", ",3 ".into())];
        let given = Given::new(FLAGS, said, &nothing);
        assert_eq!(given.get("one").text, "b");
        assert_eq!(given.get("many").items().collect::<Vec<_>>(), ["1", "2", "3"]);
    }

    #[test]
    fn a_bad_item_is_named_with_its_flag() {
        let given = Given::new(FLAGS, vec![("many", "80,x".into())], &nothing);
        let error = given.get("many").read_list(value::port).unwrap_err();
        assert_eq!(error.to_string(), "--many: \"x\" is not a port (1 to 65535)");
    }

    #[test]
    fn a_bad_variable_is_named_with_a_dollar() {
        let yes = |name: &str| (name == "ON").then(|| "yes".to_owned());
        let error = Given::new(FLAGS, Vec::new(), &yes).get("on").switch().unwrap_err();
        assert_eq!(error.to_string(), "$ON: \"yes\" is neither true nor false (true, 1, t, false, 0 or f)");
    }
}
