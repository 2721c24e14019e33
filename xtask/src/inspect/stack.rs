//! How much stack a program of a BPF object needs, as the verifier of an old kernel counts it.
//!
//! A program has 512 bytes for all functions that call each other (Linux, `kernel/bpf/verifier.c`,
//! `check_max_stack_depth`); newer kernels round a function's part up to 16 bytes, older ones to 32.
//! So what the newest kernel loads an older one may refuse, and nobody would notice before it was
//! tried there.

use std::collections::BTreeMap;

use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionKind, SymbolKind,
    read::File,
};

/// `MAX_BPF_STACK`: bytes for all functions on the deepest way through a program.
pub const BUDGET: u64 = 512;

/// What a function's part is rounded up to, in bytes, where no newer kernel does better.
const ROUNDING: u64 = 32;

/// Bytes that may be in use where a function is called that goes on in another program.
const BEFORE_TAIL_CALL: u64 = 256;

const INSTRUCTION: usize = 8;

/// The frame pointer's number.
const R10: u8 = 10;

/// `MAX_CALL_FRAMES`: functions on a way through a program.
const FRAMES: usize = 8;

/// The helper `bpf_tail_call`.
const TAIL_CALL: i32 = 12;

/// A way through a program by the functions that call each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The functions' symbols and the bytes of each, the program first.
    pub functions: Vec<(String, u64)>,
    /// Does the last one go on in another program?
    goes_on_elsewhere: bool,
}

impl Chain {
    /// What all functions need together, in bytes.
    pub fn bytes(&self) -> u64 {
        self.functions.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Would a kernel refuse the program for this?
    pub fn is_refused(&self) -> bool {
        let last = self.functions.last().map_or(0, |(_, bytes)| *bytes);
        self.bytes() > BUDGET
            || self.functions.len() > FRAMES
            || self.goes_on_elsewhere && self.bytes() - last >= BEFORE_TAIL_CALL
    }
}

/// Every way through each program, from its beginning to any function, by the program's symbol.
pub fn chains(file: &File<'_>) -> BTreeMap<String, Vec<Chain>> {
    let functions = functions(file);
    let programs = functions
        .iter()
        .filter(|(_, function)| !function.is_library);
    programs
        .map(|(place, function)| {
            let mut chains = Vec::new();
            walk(&functions, *place, &mut Vec::new(), &mut chains);
            (function.name.clone(), chains)
        })
        .collect()
}

/// Where a function begins: its section, and the byte therein.
type Place = (usize, u64);

/// What of a function matters here.
struct Function {
    name: String,
    bytes: u64,
    calls: Vec<Place>,
    goes_on_elsewhere: bool,
    is_library: bool,
}

/// Notes every way from here. A function that calls itself would never end, and no kernel takes it.
fn walk(
    functions: &BTreeMap<Place, Function>,
    place: Place,
    way: &mut Vec<Place>,
    chains: &mut Vec<Chain>,
) {
    let Some(function) = functions.get(&place).filter(|_| !way.contains(&place)) else {
        return;
    };
    way.push(place);
    let on_the_way = way.iter().filter_map(|place| functions.get(place));
    chains.push(Chain {
        functions: on_the_way
            .map(|function| (function.name.clone(), function.bytes))
            .collect(),
        goes_on_elsewhere: function.goes_on_elsewhere,
    });
    for called in &function.calls {
        walk(functions, *called, way, chains);
    }
    way.pop();
}

fn functions(file: &File<'_>) -> BTreeMap<Place, Function> {
    let mut functions = BTreeMap::new();
    for section in file
        .sections()
        .filter(|section| section.kind() == SectionKind::Text)
    {
        let Ok(code) = section.data() else { continue };
        let targets = targets(file, &section);
        let symbols = file.symbols().filter(|symbol| {
            symbol.kind() == SymbolKind::Text && symbol.section_index() == Some(section.index())
        });
        let is_library = section.name() == Ok(".text");
        for symbol in symbols {
            let (from, to) = (symbol.address(), symbol.address() + symbol.size());
            let body = usize::try_from(from)
                .ok()
                .zip(usize::try_from(to).ok())
                .and_then(|(from, to)| code.get(from..to))
                .unwrap_or_default();
            let mut function = read(body, (section.index().0, from), &targets);
            function.name = symbol.name().unwrap_or("?").to_owned();
            function.is_library = is_library;
            functions.insert((section.index().0, from), function);
        }
    }
    functions
}

/// Where the calls of a section lead that the linker of the object has left open: by the place of the
/// call, the function, or the beginning of the section that it is in.
fn targets(file: &File<'_>, section: &object::Section<'_, '_>) -> BTreeMap<u64, Place> {
    section
        .relocations()
        .filter_map(|(offset, relocation)| match relocation.target() {
            RelocationTarget::Symbol(symbol) => {
                let symbol = file.symbol_by_index(symbol).ok()?;
                Some((offset, (symbol.section_index()?.0, symbol.address())))
            }
            RelocationTarget::Section(section) => Some((offset, (section.0, 0))),
            _ => None,
        })
        .collect()
}

/// What a function's instructions say of its stack and of what it calls.
fn read(body: &[u8], (section, from): Place, targets: &BTreeMap<u64, Place>) -> Function {
    let mut lowest = 0;
    let mut calls = Vec::new();
    let mut goes_on_elsewhere = false;
    // Registers that hold the frame pointer itself: what is added to it is a place on the stack.
    let mut copies = [false; 16];
    let mut at = from;
    for instruction in body.chunks_exact(INSTRUCTION) {
        let Instruction {
            code,
            dst,
            src,
            offset,
            immediate,
        } = Instruction::of(instruction);
        match code {
            // Loads (BPF_LDX), and stores of numbers and registers (BPF_ST, BPF_STX).
            _ if code & 7 == 1 && src == R10 => lowest = lowest.min(i64::from(offset)),
            _ if matches!(code & 7, 2 | 3) && dst == R10 => lowest = lowest.min(i64::from(offset)),
            // BPF_ADD of a number to a copy.
            0x07 if copies[usize::from(dst)] => lowest = lowest.min(i64::from(immediate)),
            0x85 if src == 1 => {
                let next = i64::from(immediate) + 1;
                let place = match targets.get(&at) {
                    Some((section, base)) => (*section, base.wrapping_add_signed(8 * next)),
                    None => (section, at.wrapping_add_signed(8 * next)),
                };
                calls.push(place);
            }
            0x85 if src == 0 && immediate == TAIL_CALL => goes_on_elsewhere = true,
            _ => (),
        }
        // BPF_MOV of a register, and whatever else writes one.
        if matches!(code & 7, 0 | 1 | 4 | 7) {
            copies[usize::from(dst)] = code == 0xbf && src == R10;
        }
        at += INSTRUCTION as u64;
    }
    calls.sort_unstable();
    calls.dedup();
    Function {
        name: String::new(),
        bytes: lowest.unsigned_abs().max(1).next_multiple_of(ROUNDING),
        calls,
        goes_on_elsewhere,
        is_library: true,
    }
}

/// The fields of an instruction (Linux, `struct bpf_insn`), of an object in little-endian order.
struct Instruction {
    code: u8,
    dst: u8,
    src: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    fn of(bytes: &[u8]) -> Self {
        let byte = |at: usize| bytes.get(at).copied().unwrap_or_default();
        Self {
            code: byte(0),
            dst: byte(1) & 0xf,
            src: byte(1) >> 4,
            offset: i16::from_le_bytes([byte(2), byte(3)]),
            immediate: i32::from_le_bytes([byte(4), byte(5), byte(6), byte(7)]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::object_of;
    use super::*;

    const EXIT: [u8; 8] = [0x95, 0, 0, 0, 0, 0, 0, 0];

    /// `*(u64 *)(r10 - bytes) = r1`
    fn store(bytes: i16) -> [u8; 8] {
        let [low, high] = (-bytes).to_le_bytes();
        [0x7b, 0x1a, low, high, 0, 0, 0, 0]
    }

    /// `r2 = r10; r2 += -bytes`
    fn place(bytes: i32) -> [[u8; 8]; 2] {
        let [a, b, c, d] = (-bytes).to_le_bytes();
        [[0xbf, 0xa2, 0, 0, 0, 0, 0, 0], [0x07, 2, 0, 0, a, b, c, d]]
    }

    /// A call of what is so many instructions after the next one.
    fn call(distance: i32) -> [u8; 8] {
        let [a, b, c, d] = distance.to_le_bytes();
        [0x85, 0x10, 0, 0, a, b, c, d]
    }

    fn tail_call() -> [u8; 8] {
        [0x85, 0, 0, 0, 12, 0, 0, 0]
    }

    /// The ways through the program that the first of these functions is, all of which stand in one
    /// section, one after the other.
    fn chains_of(functions: &[&[[u8; 8]]]) -> Vec<Chain> {
        let names: Vec<String> = (0..functions.len()).map(|it| it.to_string()).collect();
        let named = names.iter().zip(functions);
        let named = named.map(|(name, code)| ("classifier", name.as_str(), code.concat()));
        let bytes = object_of(&named.collect::<Vec<_>>(), None);
        chains(&File::parse(&*bytes).unwrap()).remove("0").unwrap()
    }

    fn bytes(chains: &[Chain]) -> Vec<Vec<u64>> {
        let of = |chain: &Chain| chain.functions.iter().map(|(_, bytes)| *bytes).collect();
        chains.iter().map(of).collect()
    }

    #[test]
    fn a_function_needs_what_it_stores_and_what_it_takes_the_place_of_in_whole_parts_of_32() {
        let [copy, add] = place(70);
        assert_eq!(bytes(&chains_of(&[&[EXIT]])), [[32]]);
        assert_eq!(bytes(&chains_of(&[&[store(40), EXIT]])), [[64]]);
        assert_eq!(bytes(&chains_of(&[&[store(40), copy, add, EXIT]])), [[96]]);
        // What is added to another pointer is no place on the stack.
        assert_eq!(bytes(&chains_of(&[&[add, EXIT]])), [[32]]);
    }

    #[test]
    fn functions_that_call_each_other_need_what_each_needs() {
        let program = [store(8), call(1), EXIT];
        let called = [store(33), call(1), EXIT];
        let last = [store(100), EXIT];
        let chains = chains_of(&[&program, &called, &last]);
        assert_eq!(bytes(&chains), [vec![32], vec![32, 64], vec![32, 64, 128]]);
        assert_eq!(chains[2].bytes(), 224);
    }

    #[test]
    fn a_program_over_its_stack_is_refused() {
        let refused = |bytes: i16| {
            let program = [store(256), call(1), EXIT];
            let chains = chains_of(&[&program, &[store(bytes), EXIT]]);
            chains.iter().any(Chain::is_refused)
        };
        assert!(!refused(256));
        assert!(refused(257));
    }

    #[test]
    fn a_function_that_goes_on_elsewhere_may_not_be_called_deep() {
        let refused = |bytes: i16, last: [u8; 8]| {
            let program = [store(bytes), call(1), EXIT];
            let chains = chains_of(&[&program, &[last, EXIT]]);
            chains.iter().any(Chain::is_refused)
        };
        assert!(!refused(224, tail_call()));
        assert!(refused(256, tail_call()));
        assert!(!refused(256, store(8)));
    }
}
