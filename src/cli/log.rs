//! Log lines, in mesh-init's form or in that of the tool that it stands in for.
//!
//! One event, one write: no lines of two programs are mixed, and nothing is buffered when the program ends.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::time::SystemTime;

use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::mesh::log::{Format, Level};

/// Whose lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// mesh-init's, to stderr: stdout carries what was asked for.
    Own(Format),
    /// istio-iptables'.
    Istio(Format, Stream),
    /// linkerd2-proxy-init's, to stdout.
    Linkerd(Format),
    /// linkerd2-network-validator's, to stdout.
    Validator(Format),
}

/// One of the program's output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// Sends events of `level` and above to where `style` says.
pub(super) fn install(style: Style, level: Level) {
    let level = match level {
        Level::None | Level::Fatal => LevelFilter::OFF,
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    // Fails when a subscriber is there already, which then stays.
    let _ = tracing::subscriber::set_global_default(Logger { style, level });
}

struct Logger {
    style: Style,
    level: LevelFilter,
}

impl Subscriber for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        // No spans are used: none is told from another.
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        let line = line(self.style, *event.metadata().level(), &message.0, SystemTime::now());
        // A log that cannot be written is no reason to leave the rules undone.
        let _ = match self.style {
            Style::Own(_) | Style::Istio(_, Stream::Stderr) => std::io::stderr().write_all(line.as_bytes()),
            Style::Istio(_, Stream::Stdout) | Style::Linkerd(_) | Style::Validator(_) => std::io::stdout().write_all(line.as_bytes()),
        };
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String cannot fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

#[derive(Serialize)]
struct OwnLine<'a> {
    time: &'a str,
    level: &'a str,
    message: &'a str,
}

#[derive(Serialize)]
struct OriginalLine<'a> {
    level: &'a str,
    time: &'a str,
    msg: &'a str,
}

/// The name that the validator logs under.
const VALIDATOR: &str = "linkerd_network_validator";

fn line(style: Style, level: tracing::Level, message: &str, now: SystemTime) -> String {
    let name = match level {
        tracing::Level::ERROR => "error",
        tracing::Level::WARN => "warn",
        tracing::Level::INFO => "info",
        tracing::Level::DEBUG => "debug",
        tracing::Level::TRACE => "trace",
    };
    let logrus_name = if name == "warn" { "warning" } else { name };
    let micros = || humantime::format_rfc3339_micros(now).to_string();
    let seconds = || humantime::format_rfc3339_seconds(now).to_string();
    let mut line = match style {
        Style::Own(Format::Plain) => match level {
            tracing::Level::INFO => format!("mesh-init: {message}"),
            _ => format!("mesh-init: {logrus_name}: {message}"),
        },
        Style::Own(Format::Json) => json(&OwnLine { time: &micros(), level: name, message }),
        Style::Istio(Format::Plain, _) => format!("{}\t{name}\t{message}", micros()),
        Style::Istio(Format::Json, _) => json(&OriginalLine { level: name, time: &micros(), msg: message }),
        Style::Linkerd(Format::Plain) => format!("time=\"{}\" level={logrus_name} msg={}", seconds(), logrus_text(message)),
        Style::Linkerd(Format::Json) => json(&OriginalLine { level: logrus_name, time: &seconds(), msg: message }),
        Style::Validator(Format::Plain) => format!("{} {level:>5} {VALIDATOR}: {message}", micros()),
        Style::Validator(Format::Json) => format!(
            "{{\"timestamp\":\"{}\",\"level\":\"{level}\",\"fields\":{{\"message\":{}}},\"target\":\"{VALIDATOR}\"}}",
            micros(),
            json(&message)
        ),
    };
    line.push('\n');
    line
}

fn json(line: &impl Serialize) -> String {
    // Texts are always serializable.
    serde_json::to_string(line).unwrap_or_default()
}

/// As logrus prints a value: bare if it is one plain word, else quoted with escapes.
fn logrus_text(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'/' | b'@' | b'^' | b'+');
    if !text.is_empty() && text.bytes().all(plain) { text.to_owned() } else { format!("{text:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(style: Style, level: tracing::Level) -> String {
        line(style, level, "no \"x\"", SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn each_style_has_its_form() {
        use tracing::Level;
        assert_eq!(shown(Style::Own(Format::Plain), Level::INFO), "mesh-init: no \"x\"\n");
        assert_eq!(shown(Style::Own(Format::Plain), Level::WARN), "mesh-init: warning: no \"x\"\n");
        assert_eq!(
            shown(Style::Own(Format::Json), Level::WARN),
            "{\"time\":\"1970-01-01T00:00:00.000000Z\",\"level\":\"warn\",\"message\":\"no \\\"x\\\"\"}\n"
        );
        assert_eq!(shown(Style::Istio(Format::Plain, Stream::Stdout), Level::WARN), "1970-01-01T00:00:00.000000Z\twarn\tno \"x\"\n");
        assert_eq!(
            shown(Style::Istio(Format::Json, Stream::Stderr), Level::ERROR),
            "{\"level\":\"error\",\"time\":\"1970-01-01T00:00:00.000000Z\",\"msg\":\"no \\\"x\\\"\"}\n"
        );
        assert_eq!(shown(Style::Linkerd(Format::Plain), Level::WARN), "time=\"1970-01-01T00:00:00Z\" level=warning msg=\"no \\\"x\\\"\"\n");
        assert_eq!(
            shown(Style::Linkerd(Format::Json), Level::INFO),
            "{\"level\":\"info\",\"time\":\"1970-01-01T00:00:00Z\",\"msg\":\"no \\\"x\\\"\"}\n"
        );
        assert_eq!(
            shown(Style::Validator(Format::Plain), Level::INFO),
            "1970-01-01T00:00:00.000000Z  INFO linkerd_network_validator: no \"x\"\n"
        );
        assert_eq!(
            shown(Style::Validator(Format::Json), Level::ERROR),
            "{\"timestamp\":\"1970-01-01T00:00:00.000000Z\",\"level\":\"ERROR\",\"fields\":{\"message\":\"no \\\"x\\\"\"},\
             \"target\":\"linkerd_network_validator\"}\n"
        );
        assert_eq!(logrus_text("done"), "done");
    }
}
