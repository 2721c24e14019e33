//! Messages of the kernel's netfilter subsystems: a header, and attributes that may hold others.

use std::convert::Infallible;

use netlink_packet_core::{
    DefaultNla, Emitable, NLA_F_NESTED, NLA_HEADER_SIZE, NetlinkDeserializable, NetlinkHeader,
    NetlinkSerializable, NlasIterator,
};

/// `struct nfgenmsg`
const HEADER: usize = 4;

/// A question.
#[derive(Clone, Debug)]
pub struct Message {
    kind: u16,
    family: u8,
    resource: u16,
    attributes: Vec<DefaultNla>,
}

impl Message {
    /// A message of a subsystem about a family.
    pub fn new(subsystem: u8, kind: u8, family: u8, attributes: Vec<DefaultNla>) -> Self {
        Self {
            kind: u16::from_be_bytes([subsystem, kind]),
            family,
            resource: 0,
            attributes,
        }
    }

    /// With the header's `res_id`.
    pub fn about(self, resource: u16) -> Self {
        Self { resource, ..self }
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        HEADER + self.attributes.as_slice().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let [high, low] = self.resource.to_be_bytes();
        buffer[..HEADER].copy_from_slice(&[self.family, 0, high, low]);
        self.attributes.as_slice().emit(&mut buffer[HEADER..]);
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    attributes: Vec<u8>,
}

impl Answer {
    /// Its attributes.
    pub fn attributes(&self) -> Attributes<'_> {
        Attributes(&self.attributes)
    }
}

impl NetlinkDeserializable for Answer {
    type Error = Infallible;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Self, Self::Error> {
        Ok(Self {
            attributes: payload.get(HEADER..).unwrap_or_default().to_vec(),
        })
    }
}

/// Attributes, one after the other. What is cut short counts as absent.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// Each attribute's value.
    pub fn all(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        NlasIterator::new(self.0).map_while(Result::ok).map(|one| {
            let (kind, end) = (one.kind(), usize::from(one.length()));
            let bytes = one.into_inner();
            (kind, bytes.get(NLA_HEADER_SIZE..end).unwrap_or_default())
        })
    }

    /// The value of the first attribute of a kind.
    pub fn value(self, kind: u16) -> Option<&'a [u8]> {
        self.all()
            .find_map(|(one, value)| (one == kind).then_some(value))
    }

    /// The attributes within one.
    pub fn within(self, kind: u16) -> Option<Self> {
        self.value(kind).map(Self)
    }

    /// Those that each of its attributes holds.
    pub fn each(self) -> impl Iterator<Item = Self> {
        self.all().map(|(_, value)| Self(value))
    }

    /// A text, which ends with a zero byte.
    pub fn text(self, kind: u16) -> Option<&'a str> {
        let value = self.value(kind)?;
        std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok()
    }

    /// A byte.
    pub fn byte(self, kind: u16) -> Option<u8> {
        self.value(kind)?.first().copied()
    }

    /// A number in network order.
    pub fn number(self, kind: u16) -> Option<u32> {
        self.value(kind)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// A long number in network order.
    pub fn long(self, kind: u16) -> Option<u64> {
        self.value(kind)?.try_into().ok().map(u64::from_be_bytes)
    }
}

/// A text.
pub fn text(kind: u16, text: &str) -> DefaultNla {
    let mut value = text.as_bytes().to_vec();
    value.push(0);
    DefaultNla::new(kind, value)
}

/// A byte.
pub fn byte(kind: u16, value: u8) -> DefaultNla {
    DefaultNla::new(kind, vec![value])
}

/// A number in network order.
pub fn number(kind: u16, number: u32) -> DefaultNla {
    DefaultNla::new(kind, number.to_be_bytes().to_vec())
}

/// A long number in network order.
pub fn long(kind: u16, number: u64) -> DefaultNla {
    DefaultNla::new(kind, number.to_be_bytes().to_vec())
}

/// Attributes in an attribute.
pub fn nested(kind: u16, attributes: &[DefaultNla]) -> DefaultNla {
    let mut value = vec![0; attributes.buffer_len()];
    attributes.emit(&mut value);
    DefaultNla::new(kind | NLA_F_NESTED, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let message = Message::new(
            10,
            6,
            2,
            vec![
                text(1, "nat"),
                long(3, 7),
                nested(4, &[nested(1, &[text(1, "immediate"), number(2, 5)])]),
                byte(5, 9),
            ],
        );
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        assert_eq!(message.message_type(), 0x0a06);
        let answer = Answer::deserialize(&NetlinkHeader::default(), &bytes).unwrap();
        let read = answer.attributes();
        assert_eq!(read.text(1), Some("nat"));
        assert_eq!(read.long(3), Some(7));
        let inner = read.within(4).unwrap().each().next().unwrap();
        assert_eq!(inner.text(1), Some("immediate"));
        assert_eq!(inner.number(2), Some(5));
        assert_eq!(read.byte(5), Some(9));
        assert_eq!(read.value(6), None);
    }

    #[test]
    fn bytes_that_are_no_attributes_are_none() {
        for bytes in [&[1_u8][..], &[0; 16], &[255; 7], &[4, 0, 1, 0, 2]] {
            let answer = Answer::deserialize(
                &NetlinkHeader::default(),
                &[[0; 4].as_slice(), bytes].concat(),
            );
            assert_eq!(answer.unwrap().attributes().text(3), None, "{bytes:?}");
        }
    }
}
