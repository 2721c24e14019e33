//! The files a machine starts with, as an archive that the kernel unpacks into memory.
//!
//! It is not compressed: an emulated processor would spend more on that than it saves.

use std::{io, ops::Range};

use anyhow::{Context as _, Result};
use cpio::newc;
use object::{
    Endianness,
    read::elf::{ElfFile64, ProgramHeader as _},
};

/// The directory in which the machine looks for its modules.
pub const MODULES: &str = "modules";

/// File types and permissions, as `stat(2)` gives them.
const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// Where an ELF header says where the sections are, how many, and which holds their names.
const SECTION_FIELDS: [Range<usize>; 2] = [0x28..0x30, 0x3c..0x40];

/// An archive of files: (path, content).
pub fn archive<'a>(files: impl IntoIterator<Item = (String, &'a [u8])>) -> io::Result<Vec<u8>> {
    let mut archive = Vec::new();
    entry(&mut archive, MODULES, DIRECTORY, &[])?;
    for (path, content) in files {
        entry(&mut archive, &path, PROGRAM, content)?;
    }
    newc::trailer(&mut archive)?;
    Ok(archive)
}

fn entry(archive: &mut Vec<u8>, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
    let size = u32::try_from(content.len()).map_err(io::Error::other)?;
    let mut writer = newc::Builder::new(path).mode(mode).write(archive, size);
    io::Write::write_all(&mut writer, content)?;
    writer.finish()?;
    Ok(())
}

/// A program without what only linkers and debuggers read, which is most of it: the kernel loads
/// segments, and sections that are in none follow the last of them.
pub fn without_sections(mut program: Vec<u8>) -> Result<Vec<u8>> {
    let file = ElfFile64::<Endianness>::parse(program.as_slice()).context("parse the program")?;
    let endian = file.endian();
    let end = file
        .elf_program_headers()
        .iter()
        .map(|header| {
            let (start, size) = header.file_range(endian);
            start.saturating_add(size)
        })
        .max()
        .context("the program has no segments")?;
    program.truncate(usize::try_from(end).unwrap_or(usize::MAX));
    for field in SECTION_FIELDS {
        program
            .get_mut(field)
            .context("the program has no header")?
            .fill(0);
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use std::{env, fs, process::Command};

    use super::*;

    #[test]
    fn files_come_back_as_they_were() {
        let files = [("init", b"odd".as_slice()), ("modules/00-llc.ko", b"")];
        let files = files.map(|(path, content)| (path.to_owned(), content));
        let bytes = archive(files.clone()).unwrap();

        let mut rest = bytes.as_slice();
        let mut found = Vec::new();
        loop {
            let mut reader = newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let name = reader.entry().name().to_owned();
            let mut content = Vec::new();
            io::Read::read_to_end(&mut reader, &mut content).unwrap();
            found.push((name, content));
            rest = reader.finish().unwrap();
        }
        let mut expected = vec![(MODULES.to_owned(), vec![])];
        expected.extend(files.map(|(path, content)| (path, content.to_vec())));
        assert_eq!(found, expected);
    }

    #[test]
    fn a_program_without_its_sections_still_runs() {
        use std::os::unix::fs::PermissionsExt as _;

        let whole = fs::read(env::current_exe().unwrap()).unwrap();
        let small = without_sections(whole.clone()).unwrap();
        assert!(small.len() < whole.len());
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("program");
        fs::write(&path, small).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        // A child that another test began in between holds the file open until it runs its own.
        let output = loop {
            match Command::new(&path).arg("--list").output() {
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {}
                output => break output.unwrap(),
            }
        };
        assert!(output.status.success(), "{output:?}");
    }

    #[test]
    fn what_is_no_program_is_refused() {
        assert!(without_sections(b"#!/bin/sh".to_vec()).is_err());
    }
}
