//! Tables of flags ([`Flag`]) as command lines: clap reads them as pflag, the original tools' parser, would.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::mesh::flag::{Flag, Given, Kind};

/// One flag as clap's argument. `-p 15001`, `-p=15001`, `-p15001`, `--envoy-port 15001` and `--envoy-port=15001` are
/// the same. A value that begins with `-` is taken for a flag unless it is a number or follows `=`: an empty variable
/// in a script must not make one flag swallow the next.
///
/// The text for `--help` is only made when `described`.
pub(super) fn argument(flag: &Flag, described: bool) -> Arg {
    let mut argument = Arg::new(flag.long).long(flag.long);
    if described {
        argument = argument.help(help(flag));
    }
    if let Some(short) = flag.short {
        argument = argument.short(short);
    }
    match flag.kind {
        Kind::Switch => {
            argument.num_args(0..=1).require_equals(true).default_missing_value("true").value_name("BOOL").action(ArgAction::Append)
        }
        Kind::Value | Kind::List => argument.value_name("VALUE").allow_negative_numbers(true).action(ArgAction::Append),
    }
}

/// A flag's help with its variables and its default.
fn help(flag: &Flag) -> String {
    let mut help = flag.help.to_owned();
    if !flag.env.is_empty() {
        let names: Vec<String> = flag.env.iter().map(|name| format!("${name}")).collect();
        help.push_str(&format!(" [{}]", names.join(", ")));
    }
    if !flag.default.is_empty() {
        help.push_str(&format!(" [default: {}]", flag.default));
    }
    help
}

/// Whether `arguments` may ask for help, alone or among other one-letter flags.
pub(super) fn ask_for_help(arguments: &[OsString]) -> bool {
    arguments
        .iter()
        .map(|argument| argument.to_string_lossy())
        .any(|text| text == "--help" || text.strip_prefix('-').is_some_and(|letters| !letters.starts_with('-') && letters.contains('h')))
}

/// What `matches` and the environment say about `flags`.
pub(super) fn read<'a>(flags: &'static [Flag], matches: &ArgMatches, environment: &'a dyn Fn(&str) -> Option<String>) -> Given<'a> {
    read_but(&[], flags, matches, environment)
}

/// The same, but those flags that `taken` has too are looked for in the environment only.
pub(super) fn read_but<'a>(
    taken: &[Flag],
    flags: &'static [Flag],
    matches: &ArgMatches,
    environment: &'a dyn Fn(&str) -> Option<String>,
) -> Given<'a> {
    let mut values = given(flags, matches);
    values.retain(|(long, _)| !taken.iter().any(|other| other.long == *long));
    Given::new(flags, values, environment)
}

/// The texts of `flags` in `matches`, in the order in which they were given.
fn given(flags: &'static [Flag], matches: &ArgMatches) -> Vec<(&'static str, String)> {
    let mut values = Vec::new();
    for flag in flags {
        // A flag of the table may be left out of a command where its name is taken.
        let Ok(Some(texts)) = matches.try_get_many::<String>(flag.long) else { continue };
        values.extend(texts.map(|text| (flag.long, text.clone())));
    }
    values
}

/// A command line that cannot be read, in one line.
pub(super) fn one_line(error: &clap::Error, arguments: &[OsString], flags: &[&'static [Flag]]) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.join(" "),
        _ => String::new(),
    };
    let argument = context(ContextKind::InvalidArg);
    let value = context(ContextKind::InvalidValue);
    match error.kind() {
        ErrorKind::UnknownArgument if !argument.starts_with('-') => format!("unexpected argument {argument:?}; see --help"),
        ErrorKind::UnknownArgument => unknown_flag(&argument, arguments, flags),
        ErrorKind::InvalidValue | ErrorKind::TooFewValues | ErrorKind::WrongNumberOfValues if value.is_empty() => {
            needs_value(argument.split([' ', '=', '[']).next().unwrap_or_default(), arguments, flags)
        }
        ErrorKind::InvalidSubcommand => {
            let known =
                "a verb is apply, verify, preflight, remove, dump or explain; a mesh istio or linkerd, and for dump and explain also live";
            format!("unknown command {:?}: {known}; see --help", context(ContextKind::InvalidSubcommand))
        }
        ErrorKind::InvalidUtf8 => "an argument is not valid UTF-8".to_owned(),
        _ => {
            // clap's first line says what is wrong; the rest is usage.
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            format!("{}; see --help", line.strip_prefix("error: ").unwrap_or(line))
        }
    }
}

/// What to say of a flag without a value: `flag`, as clap names it, came last or before something that begins with `-`.
fn needs_value(flag: &str, arguments: &[OsString], flags: &[&'static [Flag]]) -> String {
    let next = arguments.iter().position(|argument| named_by(argument, flags).is_some_and(|known| format!("--{}", known.long) == flag));
    match next.and_then(|at| arguments.get(at + 1)) {
        Some(next) => not_a_value(flag, next),
        None => format!("{flag} needs a value"),
    }
}

fn not_a_value(flag: &str, next: &OsString) -> String {
    let next = next.to_string_lossy();
    format!(
        "{flag}: {next:?} looks like a flag and is not taken for its value; write {flag}=VALUE if it is meant, {flag}= for an empty one"
    )
}

/// What to say of `argument`, an unknown flag: it may stand where a value was to be.
fn unknown_flag(argument: &str, arguments: &[OsString], flags: &[&'static [Flag]]) -> String {
    let at = arguments.iter().position(|given| given.to_string_lossy().starts_with(argument));
    let before = at.and_then(|at| arguments.get(at.checked_sub(1)?));
    match before.and_then(|before| named_by(before, flags)) {
        Some(flag) if flag.kind != Kind::Switch => not_a_value(&format!("--{}", flag.long), &arguments[at.unwrap_or_default()]),
        _ => format!("unknown flag: {argument}; see --help for those that are known"),
    }
}

/// The flag that `argument` names without giving it a value: `--long`, or `-n` alone or at the end of several.
fn named_by(argument: &OsString, flags: &[&'static [Flag]]) -> Option<&'static Flag> {
    let text = argument.to_string_lossy();
    let mut all = flags.iter().flat_map(|table| table.iter());
    match text.strip_prefix("--") {
        Some(long) => all.find(|flag| flag.long == long),
        None => {
            let last = text.strip_prefix('-')?.chars().next_back()?;
            all.find(|flag| flag.short == Some(last))
        }
    }
}

/// A command of that name whose help is one text for all flags.
pub(super) fn command(name: &'static str, about: &'static str, flags: impl IntoIterator<Item = &'static Flag>, described: bool) -> Command {
    Command::new(name).about(about).args(flags.into_iter().map(|flag| argument(flag, described))).disable_version_flag(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[
        Flag { long: "envoy-port", short: Some('p'), kind: Kind::Value, env: &[], default: "15001", help: "" },
        Flag { long: "exclude", short: Some('x'), kind: Kind::Value, env: &["EXCLUDE"], default: "", help: "" },
        Flag { long: "dry-run", short: Some('n'), kind: Kind::Switch, env: &[], default: "false", help: "" },
        Flag { long: "ports", short: Some('r'), kind: Kind::List, env: &[], default: "", help: "" },
    ];

    fn read(arguments: &[&str]) -> Result<Vec<(&'static str, String)>, String> {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        match command("t", "", FLAGS, true).no_binary_name(true).try_get_matches_from(&arguments) {
            Ok(matches) => Ok(given(FLAGS, &matches)),
            Err(error) => Err(one_line(&error, &arguments, &[FLAGS])),
        }
    }

    #[test]
    fn values_are_read_in_all_of_pflags_forms() {
        for form in [&["-p", "1"][..], &["-p=1"], &["-p1"], &["--envoy-port", "1"], &["--envoy-port=1"], &["-np1"]] {
            let values = read(form).unwrap();
            assert!(values.contains(&("envoy-port", "1".to_owned())), "{form:?}: {values:?}");
        }
        assert_eq!(read(&["-x", "", "-p", "-1"]).unwrap(), [("envoy-port", "-1".into()), ("exclude", String::new())]);
        assert_eq!(read(&["-x="]).unwrap(), [("exclude", String::new())]);
        assert_eq!(read(&["-r", "1,2", "-r3"]).unwrap(), [("ports", "1,2".into()), ("ports", "3".into())]);
        assert_eq!(read(&["-x", "a", "-x", "b"]).unwrap(), [("exclude", "a".into()), ("exclude", "b".into())]);
    }

    #[test]
    fn a_switch_takes_a_value_only_after_an_equals_sign() {
        assert_eq!(read(&["-n"]).unwrap(), [("dry-run", "true".into())]);
        assert_eq!(read(&["--dry-run=false"]).unwrap(), [("dry-run", "false".into())]);
        assert_eq!(read(&["--dry-run", "false"]).unwrap_err(), "unexpected argument \"false\"; see --help");
    }

    #[test]
    fn errors_are_one_line_that_names_the_flag_and_the_value() {
        assert_eq!(read(&["--bogus"]).unwrap_err(), "unknown flag: --bogus; see --help for those that are known");
        assert_eq!(read(&["-p"]).unwrap_err(), "--envoy-port needs a value");
        assert_eq!(
            read(&["-x", "-b", "*"]).unwrap_err(),
            "--exclude: \"-b\" looks like a flag and is not taken for its value; write --exclude=VALUE if it is meant, --exclude= for an empty one"
        );
        assert!(read(&["--exclude", "--dry-run"]).unwrap_err().starts_with("--exclude: \"--dry-run\" looks like a flag"));
    }
}
