//! What a built file is: the BPF object's programs and their faults, and whether a binary is
//! static. Pure: bytes in, findings out.

mod stack;

use std::fmt;

use object::{
    BinaryFormat, Object as _, ObjectSection as _, ObjectSymbol as _, SectionKind, SymbolKind, elf,
    read::elf::{ElfFile64, ProgramHeader as _},
};

/// The licence the programs must declare: some helpers are for the GPL's programs only.
const LICENCE: &[u8] = b"Dual MIT/GPL\0";

/// Bytes in one BPF instruction.
const INSTRUCTION: u64 = 8;

/// A function of the BPF object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Function {
    /// Its section: the program's type, or `.text` for what programs call.
    pub section: String,
    /// Its symbol, mangled.
    pub name: String,
    /// How many instructions it has.
    pub instructions: u64,
    /// Of a program: the bytes of stack that it and what it calls need at most.
    pub stack: Option<u64>,
}

impl Function {
    /// Its path in the source, without what it is generic over.
    pub fn path(&self) -> String {
        path(&self.name)
    }
}

fn path(symbol: &str) -> String {
    let path = format!("{:#}", rustc_demangle::demangle(symbol));
    match path.split_once("::<") {
        Some((before, _arguments)) => before.to_owned(),
        None => path,
    }
}

/// Why an object must not be shipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not an object file for BPF.
    NotBpf(String),
    /// A path through the code ends in a panic, which the verifier refuses with words that do not
    /// say so.
    Panics {
        /// The panicking function, or the section that holds one.
        symbol: String,
    },
    /// Functions call each other deeper than a program's stack allows.
    Stack(stack::Chain),
    /// Another licence, or none.
    Licence(Option<String>),
    /// No program at all.
    Empty,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBpf(reason) => write!(formatter, "not a BPF object: {reason}"),
            Self::Panics { symbol } => write!(
                formatter,
                "a panic can be reached: {symbol} (an unchecked index, `unwrap`, `expect`, or a \
                 division by what may be zero)"
            ),
            Self::Stack(chain) => {
                write!(
                    formatter,
                    "a kernel refuses functions that call each other so deep (they need {} bytes of stack, \
                     a program has {}):",
                    chain.bytes(),
                    stack::BUDGET
                )?;
                chain.functions.iter().try_for_each(|(name, bytes)| {
                    write!(formatter, "\n    {bytes:>3}  {}", path(name))
                })
            }
            Self::Licence(Some(licence)) => write!(
                formatter,
                "the programs declare the licence {licence:?} instead of \"Dual MIT/GPL\""
            ),
            Self::Licence(None) => formatter.write_str("the programs declare no licence"),
            Self::Empty => formatter.write_str("the object holds no program"),
        }
    }
}

/// The functions of a BPF object, programs first; or everything that is wrong with it.
pub fn bpf_object(bytes: &[u8]) -> Result<Vec<Function>, Vec<Fault>> {
    let file =
        object::File::parse(bytes).map_err(|error| vec![Fault::NotBpf(error.to_string())])?;
    if file.format() != BinaryFormat::Elf || file.architecture() != object::Architecture::Bpf {
        return Err(vec![Fault::NotBpf(format!(
            "{:?} for {:?}",
            file.format(),
            file.architecture()
        ))]);
    }
    let mut functions = functions(&file);
    let mut faults = panics(&file, &functions);
    faults.extend(stack(&file, &mut functions));
    faults.extend(licence(&file));
    if functions.iter().all(is_library) {
        faults.push(Fault::Empty);
    }
    if faults.is_empty() {
        Ok(functions)
    } else {
        Err(faults)
    }
}

/// Whether an executable asks for a dynamic loader.
pub fn is_static(bytes: &[u8]) -> Result<bool, object::Error> {
    let file = ElfFile64::<object::Endianness>::parse(bytes)?;
    let endian = file.endian();
    Ok(file
        .elf_program_headers()
        .iter()
        .all(|header| header.p_type(endian) != elf::PT_INTERP))
}

fn functions(file: &object::File<'_>) -> Vec<Function> {
    let mut functions = file
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text)
        .filter_map(|symbol| {
            let section = file.section_by_index(symbol.section_index()?).ok()?;
            Some(Function {
                section: section.name().unwrap_or("?").to_owned(),
                name: symbol.name().unwrap_or("?").to_owned(),
                instructions: symbol.size() / INSTRUCTION,
                stack: None,
            })
        })
        .collect::<Vec<_>>();
    functions.sort_by(|a, b| (is_library(a), a).cmp(&(is_library(b), b)));
    functions
}

fn is_library(function: &Function) -> bool {
    function.section == ".text"
}

fn panics(file: &object::File<'_>, functions: &[Function]) -> Vec<Fault> {
    let by_symbol = functions
        .iter()
        .filter(|function| function.name.contains("9panicking"))
        .map(|function| function.name.clone());
    // The compiler moves what only a panic reaches into a section of its own.
    let by_section = file
        .sections()
        .filter(|section| section.kind() == SectionKind::Text)
        .filter_map(|section| section.name().ok().map(str::to_owned))
        .filter(|name| name.starts_with(".text.unlikely."));
    by_symbol
        .chain(by_section)
        .map(|symbol| Fault::Panics { symbol })
        .collect()
}

/// Notes how much stack each program needs. What kernels refuse is a fault, of each program the worst.
fn stack(file: &object::File<'_>, functions: &mut [Function]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (program, chains) in stack::chains(file) {
        let deepest = chains.iter().map(stack::Chain::bytes).max();
        let of_program = functions
            .iter_mut()
            .filter(|function| function.name == program);
        of_program.for_each(|function| function.stack = deepest);
        let refused = chains.into_iter().filter(stack::Chain::is_refused);
        faults.extend(refused.max_by_key(stack::Chain::bytes).map(Fault::Stack));
    }
    faults
}

fn licence(file: &object::File<'_>) -> Option<Fault> {
    let declared = file
        .section_by_name("license")
        .and_then(|section| section.data().ok());
    match declared {
        Some(LICENCE) => None,
        other => Some(Fault::Licence(other.map(|bytes| {
            String::from_utf8_lossy(bytes)
                .trim_end_matches('\0')
                .to_owned()
        }))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use object::{
        Architecture, BinaryFormat, Endianness, SymbolFlags, SymbolScope,
        write::{Object, Symbol, SymbolSection},
    };

    use super::*;

    /// An object with functions (section, name, size in bytes) and a licence.
    fn object(functions: &[(&str, &str, usize)], licence: Option<&[u8]>) -> Vec<u8> {
        let empty = functions.iter();
        let empty = empty.map(|&(section, name, size)| (section, name, vec![0; size]));
        object_of(&empty.collect::<Vec<_>>(), licence)
    }

    /// An object with functions (section, name, code) and a licence.
    pub(super) fn object_of(
        functions: &[(&str, &str, Vec<u8>)],
        licence: Option<&[u8]>,
    ) -> Vec<u8> {
        let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
        let mut sections = BTreeMap::new();
        for &(section, name, ref code) in functions {
            let section = *sections.entry(section).or_insert_with_key(|name| {
                object.add_section(vec![], (*name).into(), SectionKind::Text)
            });
            let value = object.append_section_data(section, code, 8);
            object.add_symbol(Symbol {
                name: name.into(),
                value,
                size: code.len() as u64,
                kind: SymbolKind::Text,
                scope: SymbolScope::Linkage,
                weak: false,
                section: SymbolSection::Section(section),
                flags: SymbolFlags::None,
            });
        }
        if let Some(licence) = licence {
            let section = object.add_section(vec![], "license".into(), SectionKind::ReadOnlyData);
            object.append_section_data(section, licence, 1);
        }
        object.write().unwrap()
    }

    #[test]
    fn programs_come_first_with_their_size_in_instructions() {
        let bytes = object(
            &[(".text", "memcpy", 88), ("classifier", "to_pod", 16)],
            Some(LICENCE),
        );
        let found = bpf_object(&bytes).unwrap();
        let summary = found
            .iter()
            .map(|function| (function.name.as_str(), function.instructions))
            .collect::<Vec<_>>();
        assert_eq!(summary, [("to_pod", 2), ("memcpy", 11)]);
    }

    #[test]
    fn a_function_has_its_path_in_the_source() {
        let path = |name: &str| {
            Function {
                section: ".text".to_owned(),
                name: name.to_owned(),
                instructions: 1,
                stack: None,
            }
            .path()
        };
        assert_eq!(path("from_pod"), "from_pod");
        assert_eq!(
            path(
                "_RINvNtCsiKar67XHaM9_9weir_ebpf6packet5parseNtNtCsd0XLgBE0dVd_9dataplane3skb3SkbEBJ_"
            ),
            "weir_ebpf::packet::parse"
        );
    }

    #[test]
    fn a_panicking_function_is_named() {
        let symbol = "_ZN4core9panicking18panic_bounds_check17h0123456789abcdefE";
        let bytes = object(
            &[("classifier", "to_pod", 16), (".text", symbol, 16)],
            Some(LICENCE),
        );
        assert_eq!(
            bpf_object(&bytes),
            Err(vec![Fault::Panics {
                symbol: symbol.to_owned()
            }])
        );
    }

    #[test]
    fn a_section_only_a_panic_reaches_is_named() {
        let bytes = object(
            &[
                ("classifier", "to_pod", 16),
                (".text.unlikely.", "cold", 16),
            ],
            Some(LICENCE),
        );
        assert_eq!(
            bpf_object(&bytes),
            Err(vec![Fault::Panics {
                symbol: ".text.unlikely.".to_owned()
            }])
        );
    }

    #[test]
    fn another_licence_is_refused() {
        let program = [("classifier", "to_pod", 16)];
        assert_eq!(
            bpf_object(&object(&program, Some(b"Apache-2.0\0"))),
            Err(vec![Fault::Licence(Some("Apache-2.0".to_owned()))])
        );
        assert_eq!(
            bpf_object(&object(&program, None)),
            Err(vec![Fault::Licence(None)])
        );
    }

    #[test]
    fn an_object_without_programs_is_refused() {
        let bytes = object(&[(".text", "memcpy", 88)], Some(LICENCE));
        assert_eq!(bpf_object(&bytes), Err(vec![Fault::Empty]));
    }

    #[test]
    fn bytes_that_are_no_object_are_refused() {
        assert!(matches!(
            bpf_object(b"not an object").unwrap_err()[..],
            [Fault::NotBpf(_)]
        ));
    }
}
