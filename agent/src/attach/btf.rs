//! What the kernel says of its own types (BTF): where a field lies, and the number of a function.
//!
//! aya reads the same, and shows neither; the crates that do are under the LGPL or not kept. Read
//! here is what never changed since Linux 4.18, after `Documentation/bpf/btf.rst`: kinds that are not
//! known end the reading.

use std::{fs, io, str};

/// Where the kernel tells it.
const KERNEL: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;

const KIND_INT: u32 = 1;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_FUNCTION: u32 = 12;
const KIND_FUNCTION_PROTOTYPE: u32 = 13;
const KIND_VARIABLE: u32 = 14;
const KIND_DATA_SECTION: u32 = 15;
const KIND_DECLARATION_TAG: u32 = 17;
const KIND_ENUM64: u32 = 19;

/// Anonymous structures in each other, at most.
const DEPTH: usize = 8;

/// A field of a structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    /// Bits from the structure's beginning.
    pub(super) offset: u32,
    /// Bits of a bit field; zero of any other.
    pub(super) size: u32,
}

/// All types.
pub(super) struct Btf {
    bytes: Vec<u8>,
    /// Where the strings begin, and end.
    strings: (usize, usize),
    /// Where the type of each number begins. That with the number zero is none.
    types: Vec<usize>,
}

impl Btf {
    /// The kernel's; `None` where it has none, or one that cannot be read.
    pub(super) fn of_kernel() -> io::Result<Option<Self>> {
        match fs::read(KERNEL) {
            Ok(bytes) => Ok(Self::read(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read(bytes: Vec<u8>) -> Option<Self> {
        if u16_at(&bytes, 0)? != MAGIC {
            return None;
        }
        let header = usize_at(&bytes, 4)?;
        let begin = header.checked_add(usize_at(&bytes, 8)?)?;
        let end = begin.checked_add(usize_at(&bytes, 12)?)?;
        let strings = header.checked_add(usize_at(&bytes, 16)?)?;
        let strings = (strings, strings.checked_add(usize_at(&bytes, 20)?)?);
        let mut types = vec![0];
        let mut place = begin;
        while place < end {
            types.push(place);
            place += 12 + behind(u32_at(&bytes, place + 4)?)?;
        }
        Some(Self {
            bytes,
            strings,
            types,
        })
    }

    /// The number of a function.
    pub(super) fn function(&self, name: &str) -> Option<u32> {
        let number = self.find(KIND_FUNCTION, name)?;
        u32::try_from(number).ok()
    }

    /// A field of a structure, in whatever anonymous ones it lies.
    pub(super) fn field(&self, structure: &str, name: &str) -> Option<Field> {
        let number = self.find(KIND_STRUCT, structure)?;
        self.member(self.types[number], name, DEPTH)
    }

    fn find(&self, kind: u32, name: &str) -> Option<usize> {
        (1..self.types.len()).find(|number| {
            let place = self.types[*number];
            self.kind(place) == Some(kind) && self.name(place) == Some(name)
        })
    }

    fn kind(&self, place: usize) -> Option<u32> {
        Some(kind(u32_at(&self.bytes, place + 4)?))
    }

    /// What a type or a member is called; both begin with that.
    fn name(&self, place: usize) -> Option<&str> {
        let (begin, end) = self.strings;
        let begin = begin.checked_add(usize_at(&self.bytes, place)?)?;
        let rest = self.bytes.get(begin..end)?;
        let length = rest.iter().position(|byte| *byte == 0)?;
        str::from_utf8(&rest[..length]).ok()
    }

    fn member(&self, structure: usize, name: &str, depth: usize) -> Option<Field> {
        let info = u32_at(&self.bytes, structure + 4)?;
        let has_sizes = info >> 31 != 0;
        (0..count(info)).find_map(|index| {
            let place = structure + 12 * (index + 1);
            let offset = u32_at(&self.bytes, place + 8)?;
            let here = match has_sizes {
                true => Field {
                    offset: offset & 0xff_ffff,
                    size: offset >> 24,
                },
                false => Field { offset, size: 0 },
            };
            let called = self.name(place)?;
            if called == name {
                return Some(here);
            }
            if !called.is_empty() || depth == 0 {
                return None;
            }
            let inner = *self.types.get(usize_at(&self.bytes, place + 4)?)?;
            if !matches!(self.kind(inner)?, KIND_STRUCT | KIND_UNION) {
                return None;
            }
            let field = self.member(inner, name, depth - 1)?;
            Some(Field {
                offset: here.offset + field.offset,
                ..field
            })
        })
    }
}

const fn kind(info: u32) -> u32 {
    info >> 24 & 0x1f
}

const fn count(info: u32) -> usize {
    (info & 0xffff) as usize
}

/// The bytes behind a type's own twelve; `None`: nobody knows.
const fn behind(info: u32) -> Option<usize> {
    Some(match kind(info) {
        KIND_INT | KIND_VARIABLE | KIND_DECLARATION_TAG => 4,
        KIND_ARRAY => 12,
        KIND_STRUCT | KIND_UNION | KIND_DATA_SECTION | KIND_ENUM64 => 12 * count(info),
        KIND_ENUM | KIND_FUNCTION_PROTOTYPE => 8 * count(info),
        // Pointers, names, qualifiers, functions, floating-point numbers.
        2 | 7..=12 | 16 | 18 => 0,
        _ => return None,
    })
}

fn u16_at(bytes: &[u8], place: usize) -> Option<u16> {
    let field = bytes.get(place..place.checked_add(2)?)?;
    Some(u16::from_ne_bytes(field.try_into().ok()?))
}

fn u32_at(bytes: &[u8], place: usize) -> Option<u32> {
    let field = bytes.get(place..place.checked_add(4)?)?;
    Some(u32::from_ne_bytes(field.try_into().ok()?))
}

fn usize_at(bytes: &[u8], place: usize) -> Option<usize> {
    usize::try_from(u32_at(bytes, place)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITH_SIZES: u32 = 1 << 31;

    /// Types as the kernel would tell them.
    #[derive(Default)]
    struct Writer {
        types: Vec<u8>,
        strings: Vec<u8>,
    }

    impl Writer {
        fn name(&mut self, name: &str) -> u32 {
            if self.strings.is_empty() {
                self.strings.push(0);
            }
            if name.is_empty() {
                return 0;
            }
            let place = self.strings.len() as u32;
            self.strings.extend(name.as_bytes());
            self.strings.push(0);
            place
        }

        fn words(&mut self, words: &[u32]) {
            self.types
                .extend(words.iter().flat_map(|it| it.to_ne_bytes()));
        }

        fn begin(&mut self, name: &str, kind: u32, count: u32, last: u32) {
            let name = self.name(name);
            self.words(&[name, kind << 24 | count, last]);
        }

        fn member(&mut self, name: &str, of: u32, offset: u32) {
            let name = self.name(name);
            self.words(&[name, of, offset]);
        }

        fn finish(self) -> Vec<u8> {
            let (types, strings) = (self.types.len() as u32, self.strings.len() as u32);
            let mut bytes = MAGIC.to_ne_bytes().to_vec();
            bytes.extend([1, 0]);
            for word in [24, 0, types, types, strings] {
                bytes.extend(u32::to_ne_bytes(word));
            }
            bytes.extend(self.types);
            bytes.extend(self.strings);
            bytes
        }
    }

    /// `int`, a structure in a union in a structure, a function of the same name, and one behind.
    fn types() -> Vec<u8> {
        let mut writer = Writer::default();
        writer.begin("int", KIND_INT, 0, 4);
        writer.words(&[32]);
        writer.begin("", KIND_STRUCT | WITH_SIZES >> 24, 2, 8);
        writer.member("kind", 1, 3 << 24 | 1);
        writer.member("summed", 1, 2 << 24 | 5);
        writer.begin("", KIND_UNION, 2, 8);
        writer.member("", 2, 0);
        writer.member("headers", 2, 0);
        writer.begin("packet", KIND_FUNCTION, 0, 0);
        writer.begin("packet", KIND_STRUCT, 3, 24);
        writer.member("length", 1, 0);
        writer.member("", 3, 128);
        writer.member("end", 1, 192);
        writer.begin("behind", KIND_FUNCTION, 0, 0);
        writer.finish()
    }

    #[test]
    fn a_field_is_found_in_anonymous_structures() {
        let btf = Btf::read(types()).unwrap();
        let field = |name| btf.field("packet", name);
        let at = |offset, size| Some(Field { offset, size });
        assert_eq!(field("length"), at(0, 0));
        assert_eq!(field("kind"), at(129, 3));
        assert_eq!(field("summed"), at(133, 2));
        assert_eq!(field("headers"), at(128, 0));
        assert_eq!(field("end"), at(192, 0));
        assert_eq!(field("nowhere"), None);
        assert_eq!(btf.field("int", "length"), None);
    }

    #[test]
    fn functions_are_told_by_their_numbers() {
        let btf = Btf::read(types()).unwrap();
        assert_eq!(btf.function("packet"), Some(4));
        assert_eq!(btf.function("behind"), Some(6));
        assert_eq!(btf.function("int"), None);
    }

    #[test]
    fn what_cannot_be_read_is_none_and_nothing_is_read_beyond_it() {
        let whole = types();
        for length in 0..whole.len() {
            if let Some(btf) = Btf::read(whole[..length].to_vec()) {
                let _ = btf.field("packet", "summed");
                let _ = btf.function("behind");
            }
        }
        let mut strange = Writer::default();
        strange.begin("", 31, 0, 0);
        assert!(Btf::read(strange.finish()).is_none());
        assert!(Btf::read(vec![0; 64]).is_none());
        let mut itself = Writer::default();
        itself.begin("packet", KIND_STRUCT, 1, 8);
        itself.member("", 1, 0);
        let btf = Btf::read(itself.finish()).unwrap();
        assert_eq!(btf.field("packet", "summed"), None);
    }
}
