//! Spans of time as Go writes them: `5s`, `500ms`, `1h2m`, `1.5s`, `0`.

use std::time::Duration;

/// The units with their nanoseconds; both ways to write micro are known.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// A span of time that is not negative, or what is wrong with the text.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    if text.len() > 1 && text.starts_with('-') && nanoseconds(&text[1..]).is_some_and(|span| span > 0) {
        return Err("is negative (allowed is a time like 5s, 500ms or 1m30s)".to_owned());
    }
    nanoseconds(text.strip_prefix(['+', '-']).unwrap_or(text))
        .map(Duration::from_nanos)
        .ok_or_else(|| "is not a time (allowed is a number with a unit, as 5s, 500ms or 1m30s)".to_owned())
}

/// `text`, which has no sign, in nanoseconds; at most what Go can hold.
fn nanoseconds(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text;
    let mut sum: u64 = 0;
    loop {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let (_, nanos) = UNITS.iter().find(|(name, _)| *name == unit)?;
        sum = sum.checked_add(scaled(number, *nanos)?).filter(|sum| i64::try_from(*sum).is_ok())?;
        if tail.is_empty() {
            return Some(sum);
        }
        rest = tail;
    }
}

/// `number`, digits with at most one point, times `unit`.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()?.checked_mul(unit)? };
    // Digits past the eighteenth are below a nanosecond in every unit.
    let (digits, scale) =
        fraction.bytes().take(18).fold((0, 1), |(digits, scale), digit| (digits * 10 + u128::from(digit - b'0'), scale * 10));
    whole.checked_add(u64::try_from(digits * u128::from(unit) / scale).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_go_reads_them() {
        let good = [
            ("5s", 5_000),
            ("500ms", 500),
            ("1h2m", 3_720_000),
            ("1.5s", 1_500),
            (".5s", 500),
            ("1.s", 1_000),
            ("+2s", 2_000),
            ("0", 0),
            ("-0", 0),
            ("0s", 0),
            ("1000us", 1),
            ("1000\u{b5}s", 1),
        ];
        for (text, millis) in good {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", "5", "s", ".s", "5 s", "5x", "1..5s", "soon", "9999999h", "5s3", "+-5s", "-"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(duration("-5s"), Err("is negative (allowed is a time like 5s, 500ms or 1m30s)".to_owned()));
    }
}
