//! Netlink messages as bytes.
//!
//! Writing appends to a `Vec<u8>`, so that several messages can go into one buffer; lengths are filled in when what
//! they measure is complete. Reading takes any bytes: a length that does not fit is an error, never a panic.

use nix::libc;

/// The length of a message's header.
#[doc(alias = "NLMSG_HDRLEN")]
pub const HEADER_LEN: usize = 16;

/// The length of an attribute's header.
#[doc(alias = "NLA_HDRLEN")]
pub const ATTRIBUTE_HEADER_LEN: usize = 4;

/// In an attribute's type: its value is made of attributes.
#[doc(alias = "NLA_F_NESTED")]
const NESTED: u16 = 1 << 15;

/// The bits of an attribute's type that say which it is.
#[doc(alias = "NLA_TYPE_MASK")]
const TYPE_MASK: u16 = !(NESTED | 1 << 14);

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<libc::nlmsghdr>() == HEADER_LEN);
    assert!(offset_of!(libc::nlmsghdr, nlmsg_len) == 0);
    assert!(offset_of!(libc::nlmsghdr, nlmsg_type) == 4);
    assert!(offset_of!(libc::nlmsghdr, nlmsg_flags) == 6);
    assert!(offset_of!(libc::nlmsghdr, nlmsg_seq) == 8);
    assert!(offset_of!(libc::nlmsghdr, nlmsg_pid) == 12);
    assert!(size_of::<libc::nlattr>() == ATTRIBUTE_HEADER_LEN);
    assert!(offset_of!(libc::nlattr, nla_len) == 0);
    assert!(offset_of!(libc::nlattr, nla_type) == 2);
    assert!(NESTED as i32 == libc::NLA_F_NESTED);
    assert!(TYPE_MASK == libc::NLA_TYPE_MASK as u16);
};

/// A length rounded up to where the next message or attribute begins.
#[doc(alias = "NLMSG_ALIGN")]
#[doc(alias = "NLA_ALIGN")]
const fn align(len: usize) -> usize {
    len.next_multiple_of(4)
}

/// A message or attribute that is longer than its length field can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too long for a netlink message")]
pub struct TooLong;

/// Bytes that are no netlink message; the text says what is wrong with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed netlink message: {0}")]
pub struct Malformed(pub &'static str);

/// What the writer of a message chooses of its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The message's type (`nlmsg_type`).
    pub kind: u16,
    /// `NLM_F_*`
    pub flags: u16,
    /// The number that the answers carry.
    pub sequence: u32,
}

/// Appends a message to `buffer`: its header, its fixed part, and the attributes that `fill` writes. On an error the
/// buffer is as it was.
pub fn append_message(
    buffer: &mut Vec<u8>,
    header: Header,
    fixed: &[u8],
    fill: impl FnOnce(&mut AttributeWriter<'_>),
) -> Result<(), TooLong> {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&header.kind.to_ne_bytes());
    buffer.extend_from_slice(&header.flags.to_ne_bytes());
    buffer.extend_from_slice(&header.sequence.to_ne_bytes());
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(fixed);
    pad(buffer, start);
    let mut writer = AttributeWriter { buffer, start, too_long: false };
    fill(&mut writer);
    let too_long = writer.too_long;
    match u32::try_from(buffer.len() - start) {
        Ok(len) if !too_long => {
            buffer[start..start + 4].copy_from_slice(&len.to_ne_bytes());
            Ok(())
        }
        _ => {
            buffer.truncate(start);
            Err(TooLong)
        }
    }
}

/// Fills up with zeros to the next boundary, counted from `start`.
fn pad(buffer: &mut Vec<u8>, start: usize) {
    buffer.resize(start + align(buffer.len() - start), 0);
}

/// Appends attributes to a message.
#[derive(Debug)]
pub struct AttributeWriter<'a> {
    buffer: &'a mut Vec<u8>,
    start: usize,
    too_long: bool,
}

impl AttributeWriter<'_> {
    /// An attribute of any bytes.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.attribute(kind, |writer| writer.buffer.extend_from_slice(value))
    }

    /// One byte.
    pub fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.bytes(kind, &[value])
    }

    /// Two bytes in the machine's order.
    pub fn u16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Four bytes in the machine's order, as rtnetlink has them.
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    /// Four bytes in network order, as netfilter has them.
    pub fn u32_be(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Eight bytes in network order.
    pub fn u64_be(&mut self, kind: u16, value: u64) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// A text with the NUL that ends it.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        self.attribute(kind, |writer| {
            writer.buffer.extend_from_slice(value.as_bytes());
            writer.buffer.push(0);
        })
    }

    /// Attributes that are written already, as another message had them.
    pub fn raw(&mut self, attributes: &[u8]) {
        self.buffer.extend_from_slice(attributes);
    }

    /// An attribute made of those that `fill` writes.
    pub fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.attribute(kind | NESTED, fill)
    }

    fn attribute(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&[0; 2]);
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        fill(self);
        match u16::try_from(self.buffer.len() - start) {
            Ok(len) => self.buffer[start..start + 2].copy_from_slice(&len.to_ne_bytes()),
            Err(_) => self.too_long = true,
        }
        pad(self.buffer, self.start);
        self
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// The byte at `at` of a message's fixed part.
pub fn u8_at(bytes: &[u8], at: usize) -> Result<u8, Malformed> {
    bytes.get(at).copied().ok_or(Malformed("fixed part too short"))
}

/// The four bytes from `at` of a message's fixed part, in the machine's order.
pub fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Malformed> {
    array(bytes, at).map(u32::from_ne_bytes).ok_or(Malformed("fixed part too short"))
}

/// The signed number at `at` of a message's fixed part, in the machine's order.
pub fn i32_at(bytes: &[u8], at: usize) -> Result<i32, Malformed> {
    array(bytes, at).map(i32::from_ne_bytes).ok_or(Malformed("fixed part too short"))
}

/// A message that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its type.
    pub kind: u16,
    /// `NLM_F_*`
    pub flags: u16,
    /// The number of the message that it answers.
    pub sequence: u32,
    /// What follows the header: a fixed part, then attributes.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes after a fixed part of `fixed` bytes.
    pub fn attributes(&self, fixed: usize) -> Result<Attributes<'a>, Malformed> {
        Attributes::after(self.payload, fixed)
    }
}

/// The messages in a buffer. After an error there are no more.
#[derive(Clone, Debug)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    /// The messages in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Messages<'a> {
        Messages { rest: bytes }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.rest);
        let parsed = (|| {
            let len = usize::try_from(u32::from_ne_bytes(array(bytes, 0)?)).ok()?;
            let message = Message {
                kind: u16::from_ne_bytes(array(bytes, 4)?),
                flags: u16::from_ne_bytes(array(bytes, 6)?),
                sequence: u32::from_ne_bytes(array(bytes, 8)?),
                payload: bytes.get(HEADER_LEN..len)?,
            };
            // The padding of the last message may be missing.
            self.rest = bytes.get(align(len)..).unwrap_or_default();
            Some(message)
        })();
        Some(parsed.ok_or(Malformed("message longer than the data")))
    }
}

/// An attribute that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Its type, without flags.
    pub kind: u16,
    /// Its value.
    pub value: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// The value as one byte.
    pub fn u8(&self) -> Result<u8, Malformed> {
        self.number().map(u8::from_ne_bytes)
    }

    /// The value as two bytes in the machine's order.
    pub fn u16(&self) -> Result<u16, Malformed> {
        self.number().map(u16::from_ne_bytes)
    }

    /// The value as four bytes in the machine's order.
    pub fn u32(&self) -> Result<u32, Malformed> {
        self.number().map(u32::from_ne_bytes)
    }

    /// The value as four bytes in network order.
    pub fn u32_be(&self) -> Result<u32, Malformed> {
        self.number().map(u32::from_be_bytes)
    }

    /// The value as eight bytes in network order.
    pub fn u64_be(&self) -> Result<u64, Malformed> {
        self.number().map(u64::from_be_bytes)
    }

    fn number<const N: usize>(&self) -> Result<[u8; N], Malformed> {
        self.value.try_into().map_err(|_| Malformed("attribute of another length than its type has"))
    }

    /// The value as text, up to the first NUL.
    pub fn text(&self) -> Result<&'a str, Malformed> {
        let end = self.value.iter().position(|byte| *byte == 0).unwrap_or(self.value.len());
        std::str::from_utf8(&self.value[..end]).map_err(|_| Malformed("text that is not UTF-8"))
    }

    /// The attributes that the value is made of.
    pub fn nested(&self) -> Attributes<'a> {
        Attributes::new(self.value)
    }
}

/// The attributes in a buffer. After an error there are no more.
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// The attributes in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Attributes<'a> {
        Attributes { rest: bytes }
    }

    /// The attributes in `payload` after a fixed part of `fixed` bytes.
    pub fn after(payload: &'a [u8], fixed: usize) -> Result<Attributes<'a>, Malformed> {
        if payload.len() < fixed {
            return Err(Malformed("fixed part too short"));
        }
        Ok(Attributes::new(payload.get(align(fixed)..).unwrap_or_default()))
    }

    /// The first attribute of type `kind` among those that are left.
    pub fn find(&self, kind: u16) -> Result<Option<Attribute<'a>>, Malformed> {
        for attribute in self.clone() {
            let attribute = attribute?;
            if attribute.kind == kind {
                return Ok(Some(attribute));
            }
        }
        Ok(None)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Attribute<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let bytes = std::mem::take(&mut self.rest);
        let parsed = (|| {
            let len = usize::from(u16::from_ne_bytes(array(bytes, 0)?));
            let kind = u16::from_ne_bytes(array(bytes, 2)?) & TYPE_MASK;
            let value = bytes.get(ATTRIBUTE_HEADER_LEN..len)?;
            // The padding of the last attribute may be missing.
            self.rest = bytes.get(align(len)..).unwrap_or_default();
            Some(Attribute { kind, value })
        })();
        Some(parsed.ok_or(Malformed("attribute longer than the data")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEADER: Header = Header { kind: 20, flags: 5, sequence: 7 };

    #[test]
    fn what_is_written_is_read_back() {
        let mut buffer = Vec::new();
        append_message(&mut buffer, HEADER, &[1, 2, 3], |attributes| {
            attributes.u8(1, 9).text(2, "nat").nested(3, |inner| {
                inner.u32_be(1, 0x0a0b_0c0d).u16(2, 513).nested(3, |_| {});
            });
        })
        .unwrap();
        append_message(&mut buffer, Header { sequence: 8, ..HEADER }, &[], |attributes| {
            attributes.u32(4, 77);
        })
        .unwrap();

        let messages: Vec<Message<'_>> = Messages::new(&buffer).collect::<Result<_, _>>().unwrap();
        assert_eq!(messages.len(), 2);
        assert_eq!((messages[0].kind, messages[0].flags, messages[0].sequence), (20, 5, 7));
        assert_eq!(messages[0].payload[..3], [1, 2, 3]);
        let attributes = messages[0].attributes(3).unwrap();
        assert_eq!(attributes.find(1).unwrap().unwrap().u8(), Ok(9));
        assert_eq!(attributes.find(2).unwrap().unwrap().text(), Ok("nat"));
        let inner: Vec<Attribute<'_>> = attributes.find(3).unwrap().unwrap().nested().collect::<Result<_, _>>().unwrap();
        assert_eq!(inner.len(), 3);
        assert_eq!(inner[0].value, [0x0a, 0x0b, 0x0c, 0x0d]);
        assert_eq!(inner[0].u32_be(), Ok(0x0a0b_0c0d));
        assert_eq!(inner[1].u16(), Ok(513));
        assert!(inner[2].value.is_empty());
        assert_eq!(attributes.find(4), Ok(None));
        assert_eq!(messages[1].attributes(0).unwrap().find(4).unwrap().unwrap().u32(), Ok(77));
    }

    #[test]
    fn an_attribute_too_long_for_its_length_leaves_the_buffer_as_it_was() {
        let mut buffer = vec![1, 2, 3, 4];
        let result = append_message(&mut buffer, HEADER, &[], |attributes| {
            attributes.bytes(1, &[0; 65532]);
        });
        assert_eq!(result, Err(TooLong));
        assert_eq!(buffer, [1, 2, 3, 4]);
        append_message(&mut buffer, HEADER, &[], |attributes| {
            attributes.bytes(1, &[0; 65531]);
        })
        .unwrap();
    }

    #[test]
    fn lengths_that_lie_are_errors() {
        let mut buffer = Vec::new();
        append_message(&mut buffer, HEADER, &[], |_| {}).unwrap();
        for len in [0u32, 15, 17, u32::MAX] {
            buffer[..4].copy_from_slice(&len.to_ne_bytes());
            assert_eq!(Messages::new(&buffer).map(|message| message.is_err()).collect::<Vec<_>>(), [true], "{len}");
        }
        for len in [0u16, 3, 5, u16::MAX] {
            let mut attribute = [0u8; 4];
            attribute[..2].copy_from_slice(&len.to_ne_bytes());
            assert_eq!(Attributes::new(&attribute).map(|one| one.is_err()).collect::<Vec<_>>(), [true], "{len}");
        }
        assert!(Attributes::after(&[0; 3], 4).is_err());
    }

    /// Reads everything there is to read, and as attributes again what might be attributes.
    fn read_all(bytes: &[u8], depth: u32) -> usize {
        let mut seen = 0;
        for attribute in Attributes::new(bytes).flatten() {
            seen += 1 + attribute.text().map_or(0, str::len);
            seen += usize::from(attribute.u8().is_ok() || attribute.u16().is_ok() || attribute.u32().is_ok() || attribute.u64_be().is_ok());
            if depth > 0 {
                seen += read_all(attribute.value, depth - 1);
            }
        }
        seen
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_readers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256), fixed in 0usize..64) {
            for message in Messages::new(&bytes).flatten() {
                if let Ok(attributes) = message.attributes(fixed) {
                    read_all(attributes.rest, 4);
                }
            }
            read_all(&bytes, 4);
        }

        #[test]
        fn small_lengths_in_arbitrary_bytes_do_not_either(lens in proptest::collection::vec((0u16..24, any::<u16>(), any::<u32>()), 0..32)) {
            let bytes: Vec<u8> = lens
                .iter()
                .flat_map(|(len, kind, value)| [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), &value.to_ne_bytes()].concat())
                .collect();
            read_all(&bytes, 8);
        }
    }
}
