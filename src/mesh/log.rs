//! How much the originals' log flags ask for, and in which form.

/// How much is logged; each level includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing.
    None,
    /// What ends the program.
    Fatal,
    /// What fails.
    Error,
    /// What should be looked at.
    Warn,
    /// What is done.
    Info,
    /// How it is done.
    Debug,
    /// Every step.
    Trace,
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text for people.
    Plain,
    /// One JSON object a line.
    Json,
}

/// A form by its name.
pub(crate) fn format(text: &str) -> Result<Format, String> {
    match text {
        "plain" => Ok(Format::Plain),
        "json" => Ok(Format::Json),
        _ => Err("is not a form of log lines (plain or json)".to_owned()),
    }
}

/// Istio's levels: a comma separated list of `scope:level`, or `level` alone for the scope `default`. The level of
/// the scope that this program logs in is returned, `unsaid` when the list does not set it; the scopes of other programs
/// only have to be well formed.
pub(super) fn istio_level(text: &str, unsaid: Level) -> Result<Level, String> {
    text.split(',').try_fold(unsaid, |level, item| {
        let (scope, name) = item.split_once(':').unwrap_or(("default", item));
        let said = match name {
            "none" => Level::None,
            "fatal" => Level::Fatal,
            "error" => Level::Error,
            "warn" => Level::Warn,
            "info" => Level::Info,
            "debug" => Level::Debug,
            _ => {
                return Err("is not a log level (allowed is scope:level, or a comma separated list of them, as default:info; \
                            levels are debug, info, warn, error, fatal and none)"
                    .to_owned());
            }
        };
        Ok(if matches!(scope, "default" | "all") { said } else { level })
    })
}

/// Linkerd's levels, which are those of its logging library, in any case of letters.
pub(super) fn linkerd_level(text: &str) -> Result<Level, String> {
    match text.to_ascii_lowercase().as_str() {
        "panic" | "fatal" => Ok(Level::Fatal),
        "error" => Ok(Level::Error),
        "warn" | "warning" => Ok(Level::Warn),
        "info" => Ok(Level::Info),
        "debug" => Ok(Level::Debug),
        "trace" => Ok(Level::Trace),
        _ => Err("is not a log level (panic, fatal, error, warn, info, debug or trace)".to_owned()),
    }
}

/// Levels of the library that Linkerd's Rust programs log with: a comma separated list of `level`, or `target=level` for
/// what logs as `target` or below it. The level for `own` is returned.
pub(super) fn tracing_level(text: &str, own: &str) -> Result<Level, String> {
    text.split(',').try_fold(Level::None, |level, item| {
        let (target, name) = item.split_once('=').unwrap_or((own, item));
        let said = match name.to_ascii_lowercase().as_str() {
            "off" => Level::None,
            other => linkerd_level(other)
                .ok()
                .filter(|level| *level != Level::Fatal)
                .ok_or_else(|| "is not a log level (off, error, warn, info, debug or trace, or a list of target=level)".to_owned())?,
        };
        Ok(if own.starts_with(target) { said } else { level })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn istio_levels_have_scopes() {
        assert_eq!(istio_level("default:info", Level::None), Ok(Level::Info));
        assert_eq!(istio_level("debug", Level::Info), Ok(Level::Debug));
        assert_eq!(istio_level("grpc:none,all:warn", Level::Info), Ok(Level::Warn));
        assert_eq!(istio_level("grpc:none", Level::Info), Ok(Level::Info));
        for text in ["", "loud", "default:", "default:info:x", "default:info,", "trace"] {
            assert!(istio_level(text, Level::Info).is_err(), "{text}");
        }
    }

    #[test]
    fn tracing_levels_have_targets() {
        for (text, level) in [("info", Level::Info), ("WARN", Level::Warn), ("off", Level::None), ("warn,me=debug", Level::Debug)] {
            assert_eq!(tracing_level(text, "me"), Ok(level), "{text}");
        }
        assert_eq!(tracing_level("info,other=trace", "me"), Ok(Level::Info));
        for text in ["", "loud", "me=", "fatal", "info,"] {
            assert!(tracing_level(text, "me").is_err(), "{text}");
        }
    }

    #[test]
    fn linkerd_levels_are_single_words() {
        assert_eq!(linkerd_level("WARNING"), Ok(Level::Warn));
        assert_eq!(linkerd_level("panic"), Ok(Level::Fatal));
        assert!(linkerd_level("").is_err() && linkerd_level("none").is_err());
    }
}
