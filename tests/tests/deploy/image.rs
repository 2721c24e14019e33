//! The image's archive, unpacked as a runtime does.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// An image's root directory, and the program that its containers start.
#[derive(Debug)]
pub struct Image {
    pub root: PathBuf,
    pub entrypoint: Vec<String>,
}

impl Image {
    /// Unpacks the archive that `cargo xtask test deploy` has built.
    pub fn unpack(root: PathBuf) -> Result<Self> {
        let archive = std::env::var_os("WEIR_IMAGE")
            .context("WEIR_IMAGE is not set; run these tests by: cargo xtask test deploy")?;
        let archive = Path::new(&archive);
        let files = read(archive).with_context(|| format!("read {}", archive.display()))?;
        let blob = |described: &Value| -> Result<&[u8]> {
            let digest = described["digest"].as_str().context("a digest")?;
            let path = format!("blobs/{}", digest.replace(':', "/"));
            let bytes = files
                .get(&path)
                .with_context(|| format!("there is no {path}"))?;
            Ok(bytes)
        };
        let index: Value =
            serde_json::from_slice(files.get("index.json").context("no index.json")?)?;
        let manifest: Value = serde_json::from_slice(blob(&index["manifests"][0])?)?;
        let config: Value = serde_json::from_slice(blob(&manifest["config"])?)?;
        let layers = manifest["layers"].as_array().context("layers")?;
        ensure!(layers.len() == 1, "{} layers", layers.len());
        tar::Archive::new(blob(&layers[0])?)
            .unpack(&root)
            .with_context(|| format!("unpack the image to {}", root.display()))?;
        Ok(Self {
            root,
            entrypoint: serde_json::from_value(config["config"]["Entrypoint"].clone())?,
        })
    }
}

fn read(archive: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut archive = tar::Archive::new(File::open(archive)?);
    let mut files = BTreeMap::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        files.insert(entry.path()?.display().to_string(), bytes);
    }
    Ok(files)
}
