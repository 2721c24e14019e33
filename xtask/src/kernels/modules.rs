//! Which modules a kernel needs to be a node, and in what order.
//!
//! A package of kernels has no list of what needs what: that is made when it is installed. Each
//! module tells for itself, in its section `.modinfo`.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use lzma_rust2::XzReader;
use object::{Object as _, ObjectSection as _};

/// Pods' interfaces, the test bed's switch, packet hooks below Linux 6.6, the closing of the node's
/// UDP sockets, VLAN devices, SCTP, and a link without link headers.
pub const NEEDED: &[&str] = &[
    "veth",
    "bridge",
    "sch_ingress",
    "cls_bpf",
    "udp_diag",
    "8021q",
    "sctp",
    "vxlan",
];

/// Name and content of the modules of these names and of all that they need, in the order in which
/// to load them.
pub fn in_order(files: &[PathBuf], needed: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
    let by_name: BTreeMap<String, &Path> = files
        .iter()
        .filter_map(|path| Some((name_of(path)?, path.as_path())))
        .collect();
    let mut order = Vec::new();
    for name in needed {
        add(name, &by_name, &mut order)?;
    }
    Ok(order)
}

fn add(
    name: &str,
    files: &BTreeMap<String, &Path>,
    order: &mut Vec<(String, Vec<u8>)>,
) -> Result<()> {
    if order.iter().any(|(loaded, _)| loaded == name) {
        return Ok(());
    }
    let path = files
        .get(name)
        .with_context(|| format!("the kernel has no module {name}"))?;
    let bytes = read(path).with_context(|| format!("read {}", path.display()))?;
    let needs = needs(&bytes).with_context(|| format!("read {}", path.display()))?;
    for need in &needs {
        add(need, files, order)?;
    }
    order.push((name.to_owned(), bytes));
    Ok(())
}

/// The module's name: in file names `-` and `_` are alike.
fn name_of(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let stem = file
        .strip_suffix(".ko")
        .or_else(|| file.strip_suffix(".ko.xz"))?;
    Some(stem.replace('-', "_"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path)?;
    if path.extension().is_none_or(|extension| extension != "xz") {
        return Ok(bytes);
    }
    let mut unpacked = Vec::new();
    XzReader::new(bytes.as_slice(), true).read_to_end(&mut unpacked)?;
    Ok(unpacked)
}

/// The names behind `depends=`.
fn needs(module: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(module)?;
    let Some(section) = file.section_by_name(".modinfo") else {
        bail!("it is no module: it has no section .modinfo");
    };
    Ok(names(section.data()?))
}

/// Entries of the section end with a zero byte each.
fn names(section: &[u8]) -> Vec<String> {
    section
        .split(|&byte| byte == 0)
        .filter_map(|entry| str::from_utf8(entry).ok()?.strip_prefix("depends="))
        .flat_map(|list| list.split(','))
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use object::{
        Architecture, BinaryFormat, Endianness, SectionKind, write::Object as ModuleFile,
    };

    use super::*;

    fn module(directory: &Path, file: &str, depends: &str) -> PathBuf {
        let mut object =
            ModuleFile::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
        let section = object.add_section(vec![], ".modinfo".into(), SectionKind::Data);
        let content = format!("license=GPL\0depends={depends}\0name=x\0");
        object.append_section_data(section, content.as_bytes(), 1);
        let path = directory.join(file);
        fs::write(&path, object.write().unwrap()).unwrap();
        path
    }

    #[test]
    fn what_is_needed_is_loaded_first_and_once() {
        let directory = tempfile::tempdir().unwrap();
        let files = [
            module(directory.path(), "bridge.ko", "stp,llc"),
            module(directory.path(), "stp.ko", "llc"),
            module(directory.path(), "llc.ko", ""),
            module(directory.path(), "udp-diag.ko", "llc"),
            module(directory.path(), "other.ko", ""),
        ];
        let order = in_order(&files, &["udp_diag", "bridge"]).unwrap();
        let names: Vec<_> = order.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["llc", "udp_diag", "stp", "bridge"]);
    }

    #[test]
    fn a_module_that_is_missing_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let files = [module(directory.path(), "bridge.ko", "stp")];
        let error = in_order(&files, &["bridge"]).unwrap_err();
        assert_eq!(error.to_string(), "the kernel has no module stp");
    }

    #[test]
    fn a_file_that_is_no_module_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("veth.ko");
        fs::write(&path, "nothing").unwrap();
        let error = format!("{:#}", in_order(&[path], &["veth"]).unwrap_err());
        assert!(error.contains("veth.ko"), "{error}");
    }
}
