//! The middle of the object's way is pure: no clock, socket, file, kernel or async.
//!
//! The compiler does not check this, since one crate has one set of dependencies; so its text is
//! searched for the names through which such things are reached.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders and files that must be pure.
const PURE: &[&str] = &[
    "src/model",
    "src/compile",
    "src/explain",
    "src/fast_path/judge.rs",
    "src/kube_proxy/message.rs",
    "src/kube_proxy/names.rs",
    "src/kube_proxy/ruleset.rs",
    "src/maps/mod.rs",
    "src/maps/cover.rs",
    "src/maps/flows.rs",
    "src/maps/diff.rs",
    "src/maps/diff",
    "src/maps/memory.rs",
    "src/maps/text.rs",
    "src/listing",
];

const FORBIDDEN: &[&str] = &[
    "aya",
    "tokio",
    "notify::",
    "rtnetlink",
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "std::net::Tcp",
    "std::net::Udp",
    "TcpStream",
    "UdpSocket",
    "kube::Client",
    "kube::Api",
    "Instant::now",
    "SystemTime::now",
    "Timestamp::now",
    "HashMap",
    "HashSet",
];

#[test]
fn model_compile_and_the_pure_maps_reach_for_nothing_outside() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for path in PURE {
        let found = files.len();
        collect(&root.join(path), &mut files);
        assert!(files.len() > found, "{path} holds no Rust file");
    }
    let mut found = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file).unwrap();
        for (line, code) in (1..).zip(text.lines()) {
            let code = code.split("//").next().unwrap_or_default();
            for name in FORBIDDEN {
                if mentions(code, name) {
                    found.push(format!("{}:{line}: {name}", file.display()));
                }
            }
        }
    }
    assert!(
        found.is_empty(),
        "pure code mentions what is not:\n{}",
        found.join("\n")
    );
}

#[test]
fn a_mention_is_a_whole_word() {
    assert!(mentions("use aya::maps::HashMap;", "aya"));
    assert!(mentions("    tokio::spawn(async {})", "tokio"));
    assert!(mentions("let now = Instant::now();", "Instant::now"));
    assert!(!mentions("let playable = is_aya_like;", "aya"));
    assert!(mentions("std::net::TcpListener::bind", "std::net::Tcp"));
}

/// Does this code contain the name, not as the middle of another word? What begins a path
/// (`std::net::Tcp`) may go on.
fn mentions(code: &str, name: &str) -> bool {
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + name.len()..].chars().next();
        !before.is_some_and(is_word) && (name.contains("::") || !after.is_some_and(is_word))
    })
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a folder of the sources is readable") {
            collect(&entry.expect("and so are its entries").path(), files);
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        files.push(path.to_owned());
    }
}
