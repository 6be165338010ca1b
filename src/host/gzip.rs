//! gzip files, unpacked (RFC 1952, RFC 1951): slowly, in little code, since the only one is the kernel's configuration.

/// What `packed` holds, if it is a gzip file of one member whose content is no longer than `limit`.
pub(super) fn unpack(packed: &[u8], limit: usize) -> Option<Vec<u8>> {
    /// Magic number, method, flags, time, extra flags, system.
    const HEAD: usize = 10;
    /// Checksum and length.
    const TAIL: usize = 8;
    let (head, rest) = packed.split_at_checked(HEAD)?;
    let &[0x1f, 0x8b, 8, flags, ..] = head else { return None };
    // Extra data, a file's name, a comment and a checksum of the head may follow it.
    let mut at = 0;
    if flags & 4 != 0 {
        at = 2 + usize::from(u16::from_le_bytes([*rest.first()?, *rest.get(1)?]));
    }
    for _ in 0..(flags & 8 != 0) as usize + (flags & 16 != 0) as usize {
        at += rest.get(at..)?.iter().position(|byte| *byte == 0)? + 1;
    }
    at += if flags & 2 != 0 { 2 } else { 0 };
    let body = rest.get(at..rest.len().checked_sub(TAIL)?)?;
    let content = inflate(body, limit)?;
    let length = u32::from_le_bytes(packed.last_chunk()?.to_owned());
    (content.len() == length as usize).then_some(content)
}

/// Bits, of each byte the lowest first.
struct Bits<'a> {
    bytes: &'a [u8],
    /// How many have been taken.
    taken: usize,
}

impl Bits<'_> {
    /// The number that the next bits are, the lowest first.
    fn take(&mut self, count: u32) -> Option<usize> {
        let mut value = 0;
        for place in 0..count {
            let byte = *self.bytes.get(self.taken / 8)?;
            value |= usize::from(byte >> (self.taken % 8) & 1) << place;
            self.taken += 1;
        }
        Some(value)
    }
}

/// The longest code.
const LONGEST: usize = 15;

/// A Huffman code: all that need be known is how many symbols have a code of each length, and the symbols in the order of
/// their codes.
struct Code {
    counts: [usize; LONGEST + 1],
    symbols: Vec<u16>,
}

impl Code {
    /// The code in which each symbol's code has the length that `lengths` has for it, 0 for none.
    fn new(lengths: &[u8]) -> Code {
        let mut code = Code { counts: [0; LONGEST + 1], symbols: Vec::new() };
        for length in 1..=LONGEST {
            for (symbol, _) in lengths.iter().enumerate().filter(|(_, of_symbol)| usize::from(**of_symbol) == length) {
                code.symbols.push(symbol as u16);
                code.counts[length] += 1;
            }
        }
        code
    }

    fn next(&self, bits: &mut Bits<'_>) -> Option<usize> {
        // The codes of one length are numbers that follow each other, after those of the shorter ones.
        let (mut code, mut first, mut index) = (0, 0, 0);
        for count in &self.counts[1..] {
            code |= bits.take(1)?;
            match code.checked_sub(first) {
                Some(place) if place < *count => return self.symbols.get(index + place).map(|symbol| usize::from(*symbol)),
                _ => {}
            }
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        None
    }
}

/// The order in which the lengths of the codes for lengths are told.
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// The codes for literals and lengths, and for distances, of a block that tells them.
fn told_codes(bits: &mut Bits<'_>) -> Option<(Code, Code)> {
    let (literals, distances, count) = (bits.take(5)? + 257, bits.take(5)? + 1, bits.take(4)? + 4);
    let mut lengths = [0; 19];
    for place in ORDER.into_iter().take(count) {
        lengths[place] = bits.take(3)? as u8;
    }
    let code = Code::new(&lengths);
    let mut lengths: Vec<u8> = Vec::new();
    while lengths.len() < literals + distances {
        let (length, times) = match code.next(bits)? {
            16 => (*lengths.last()?, bits.take(2)? + 3),
            17 => (0, bits.take(3)? + 3),
            18 => (0, bits.take(7)? + 11),
            length => (length as u8, 1),
        };
        lengths.resize(lengths.len() + times, length);
    }
    let (literals, rest) = lengths.split_at(literals);
    Some((Code::new(literals), Code::new(rest.get(..distances)?)))
}

/// The codes of a block that does not tell them.
fn fixed_codes() -> (Code, Code) {
    let length = |symbol| match symbol {
        144..256 => 9,
        256..280 => 7,
        _ => 8,
    };
    let lengths: Vec<u8> = (0..288).map(length).collect();
    (Code::new(&lengths), Code::new(&[5; 30]))
}

/// The number that `symbol` stands for, of which each `step` of symbols have one more bit to follow than those before.
fn number(symbol: usize, step: u32, bits: &mut Bits<'_>) -> Option<usize> {
    let in_step = symbol & ((1 << step) - 1);
    match (symbol >> step) as u32 {
        0 => Some(in_step),
        more => Some(((1 << step | in_step) << (more - 1)) + bits.take(more - 1)?),
    }
}

fn inflate(packed: &[u8], limit: usize) -> Option<Vec<u8>> {
    let mut bits = Bits { bytes: packed, taken: 0 };
    let mut content = Vec::new();
    loop {
        let is_last = bits.take(1)? == 1;
        let (literals, distances) = match bits.take(2)? {
            0 => {
                bits.taken = bits.taken.next_multiple_of(8);
                let (length, complement) = (bits.take(16)?, bits.take(16)?);
                let start = bits.taken / 8;
                content.extend_from_slice(packed.get(start..start + length).filter(|_| length == complement ^ 0xffff)?);
                bits.taken += 8 * length;
                (Code::new(&[]), Code::new(&[]))
            }
            1 => fixed_codes(),
            2 => told_codes(&mut bits)?,
            _ => return None,
        };
        while !literals.symbols.is_empty() {
            match literals.next(&mut bits)? {
                literal @ 0..256 => content.push(literal as u8),
                256 => break,
                symbol => {
                    let length = match symbol - 257 {
                        28 => 258,
                        symbol @ 0..28 => 3 + number(symbol, 2, &mut bits)?,
                        _ => return None,
                    };
                    let symbol = distances.next(&mut bits).filter(|symbol| *symbol < 30)?;
                    let distance = 1 + number(symbol, 1, &mut bits)?;
                    let from = content.len().checked_sub(distance)?;
                    for at in from..from + length {
                        content.push(content[at]);
                    }
                }
            }
            if content.len() > limit {
                return None;
            }
        }
        if is_last {
            return (content.len() <= limit).then_some(content);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    fn packed(content: &[u8], words: &[&str]) -> Vec<u8> {
        let mut child = Command::new("gzip").args(words).arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || input.write_all(content).unwrap());
            child.wait_with_output().unwrap().stdout
        })
    }

    #[test]
    fn what_gzip_packs_is_unpacked() {
        let text: String = (0..3000).map(|number| format!("CONFIG_OPTION_{number}={}\n", ["y", "m", "is not set"][number % 3])).collect();
        // Bytes in which nothing repeats are stored as they are.
        let mut state = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(100_000)
        .collect();
        for content in [text.as_bytes(), b"", b"a", &[b'x'; 100_000], &noise] {
            for level in ["-1", "-6", "-9"] {
                assert!(unpack(&packed(content, &[level]), 1 << 20).as_deref() == Some(content), "{level}, {} bytes", content.len());
            }
        }
        let whole = packed(text.as_bytes(), &["-9"]);
        assert_eq!(unpack(&whole, text.len() - 1), None);
        assert!(unpack(&whole, text.len()).is_some());
        for end in 0..whole.len() {
            assert_eq!(unpack(&whole[..end], 1 << 20), None, "cut off at {end}");
        }
    }

    #[test]
    fn a_files_name_and_the_rest_of_the_head_are_skipped() {
        let whole = packed(b"hello hello hello", &["-n"]);
        for (flags, more) in
            [(8, &b"name\0"[..]), (16, b"comment\0"), (24, b"name\0comment\0"), (4, b"\x03\0xyz"), (2, b"hc"), (30, b"\x01\0xn\0c\0hc")]
        {
            let mut file = whole.clone();
            file[3] = flags;
            file.splice(10..10, more.iter().copied());
            assert_eq!(unpack(&file, 100).as_deref(), Some(&b"hello hello hello"[..]), "{flags}");
        }
        assert_eq!(unpack(&[0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 0, b'n', b'o', b' ', b'e', b'n', b'd', 1, 1], 100), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = inflate(&bytes, 1 << 16);
            let _ = unpack(&[&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], &bytes].concat(), 1 << 16);
        }

        #[test]
        fn a_damaged_file_is_read_without_panic(at in any::<prop::sample::Index>(), value in any::<u8>()) {
            let mut whole = packed(&b"CONFIG_A=y\nCONFIG_B=m\n".repeat(20), &["-9"]);
            let at = at.index(whole.len());
            whole[at] = value;
            let _ = unpack(&whole, 1 << 16);
        }
    }
}
