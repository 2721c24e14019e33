//! A program that does nothing: what a hook costs before it does anything.

use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use object::write::{Object, Symbol, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
};

/// Its name.
const NAME: &str = "empty";
/// `r0 = -1` (`TCX_NEXT`: no opinion), `exit`: two instructions as `linux/bpf.h` has them.
const INSTRUCTIONS: [[u8; 8]; 2] = [
    [0xb7, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
    [0x95, 0, 0, 0, 0, 0, 0, 0],
];

/// The loaded program.
#[derive(Debug)]
pub struct Empty {
    object: Ebpf,
}

impl Empty {
    /// Loads it.
    ///
    /// # Errors
    /// The kernel refuses: this needs root.
    pub fn load() -> Result<Self> {
        let bytes = object()?;
        let mut object = EbpfLoader::new()
            .load(&bytes)
            .context("load an empty program")?;
        program(&mut object)?
            .load()
            .context("load an empty program")?;
        Ok(Self { object })
    }

    /// How long a run on a packet takes, on average of so many.
    ///
    /// # Errors
    /// The kernel does not run it.
    pub fn time(&mut self, frame: &[u8], repeat: u32) -> Result<Duration> {
        let options = TestRunOptions {
            data_in: Some(frame),
            repeat,
            ..TestRunOptions::default()
        };
        let result = program(&mut self.object)?.test_run(options);
        Ok(result.context("run an empty program")?.duration)
    }
}

fn program(object: &mut Ebpf) -> Result<&mut SchedClassifier> {
    let program = object.program_mut(NAME);
    Ok(program.context("it has one program")?.try_into()?)
}

/// An object file as a compiler would leave it.
fn object() -> Result<Vec<u8>> {
    let endianness = if cfg!(target_endian = "big") {
        Endianness::Big
    } else {
        Endianness::Little
    };
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, endianness);
    let section = object.add_section(Vec::new(), b"classifier".to_vec(), SectionKind::Text);
    let code = INSTRUCTIONS.concat();
    object.append_section_data(section, &code, 8);
    object.add_symbol(Symbol {
        name: NAME.into(),
        value: 0,
        size: code.len() as u64,
        kind: SymbolKind::Text,
        scope: SymbolScope::Linkage,
        weak: false,
        section: SymbolSection::Section(section),
        flags: SymbolFlags::None,
    });
    object.write().context("write an object file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_holds_one_program_of_two_instructions() {
        use object::{Object as _, ObjectSection as _, ObjectSymbol as _};
        let bytes = object().unwrap();
        let file = object::File::parse(&*bytes).unwrap();
        let section = file.section_by_name("classifier").unwrap();
        assert_eq!(section.size(), 16);
        let symbol = file.symbol_by_name(NAME).unwrap();
        assert_eq!(symbol.size(), 16);
    }
}
