//! `cargo xtask image`: a container image with nothing but the static binary in it, made without
//! any container tool.
//!
//! The archive is an image layout as the OCI specifies it (`oci-layout`, `index.json`, blobs by
//! their digests), with the `manifest.json` beside it that Docker's older releases look for:
//! `podman load`, `docker load`, `ctr images import`, `skopeo copy oci-archive:` and
//! `kind load image-archive` read it. The same binary gives the same bytes.

use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use indicatif::HumanBytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{build, process, workspace::Workspace};

/// What processors the image is for, by the names that images have for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Arch {
    /// x86-64
    Amd64,
    /// 64-bit ARM
    Arm64,
}

impl Arch {
    /// This machine's.
    pub fn host() -> Result<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Self::Amd64),
            "aarch64" => Ok(Self::Arm64),
            other => bail!("there are images for x86-64 and 64-bit ARM, and this is {other}"),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    const fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }
}

/// What to make.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// For which processors [default: this machine's]
    #[arg(long)]
    arch: Option<Arch>,
    /// The archive to write [default: target/image/weir-ARCH.tar]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The image's name
    #[arg(long, default_value = "localhost/weir:dev")]
    name: String,
    /// Large and slow, but built in less time
    #[arg(long)]
    debug: bool,
}

/// Builds the binary and writes the archive.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    let arch = arguments.arch.map_or_else(Arch::host, Ok)?;
    let binary = if arch == Arch::host()? {
        build::build(workspace, !arguments.debug)?
    } else {
        build::cross(workspace, arch.target(), !arguments.debug)?
    };
    let output = write(
        workspace,
        &binary,
        arch,
        &arguments.name,
        arguments.output.as_deref(),
    )?;
    let size = fs::metadata(&output)
        .with_context(|| format!("read {}", output.display()))?
        .len();
    println!(
        "{} ({}, {}, {})",
        output.display(),
        arguments.name,
        arch.name(),
        HumanBytes(size)
    );
    Ok(())
}

/// The image of this machine's development build, for tests and for a local cluster.
pub fn of_binary(workspace: &Workspace, binary: &Path, name: &str) -> Result<PathBuf> {
    write(workspace, binary, Arch::host()?, name, None)
}

fn write(
    workspace: &Workspace,
    binary: &Path,
    arch: Arch,
    name: &str,
    output: Option<&Path>,
) -> Result<PathBuf> {
    let directory = workspace.target().join("image").join(arch.name());
    fs::create_dir_all(&directory)
        .with_context(|| format!("make the directory {}", directory.display()))?;
    let bytes = fs::read(binary).with_context(|| format!("read {}", binary.display()))?;
    // Where deploy/Containerfile looks for it.
    let beside = directory.join("weir");
    process::install(binary, &beside)?;
    let output = output.map_or_else(
        || {
            workspace
                .target()
                .join(format!("image/weir-{}.tar", arch.name()))
        },
        Path::to_owned,
    );
    // An archive is there whole, or as it was.
    let new = output.with_extension("tar.new");
    write_archive(&new, &bytes, arch, name)
        .and_then(|()| Ok(fs::rename(&new, &output)?))
        .with_context(|| format!("write {}", output.display()))?;
    Ok(output)
}

/// Something that the layout refers to by its digest.
struct Blob {
    digest: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        use std::fmt::Write as _;
        let mut digest = String::new();
        for byte in Sha256::digest(&bytes) {
            write!(digest, "{byte:02x}").expect("a string takes whatever is written");
        }
        Self { digest, bytes }
    }

    fn json(value: &Value) -> Self {
        Self::new(value.to_string().into_bytes())
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest)
    }

    fn described(&self, kind: &str) -> Value {
        json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": format!("sha256:{}", self.digest),
            "size": self.bytes.len(),
        })
    }
}

fn write_archive(path: &Path, binary: &[u8], arch: Arch, name: &str) -> Result<()> {
    let layer = Blob::new(layer(binary)?);
    let config = Blob::json(&json!({
        "architecture": arch.name(),
        "os": "linux",
        "config": {
            "Entrypoint": ["/weir"],
            "Env": ["PATH=/"],
            "WorkingDir": "/",
            "Labels": {
                "org.opencontainers.image.title": "weir",
                "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
                "org.opencontainers.image.source": env!("CARGO_PKG_REPOSITORY"),
                "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
            },
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", layer.digest)]},
        "history": [{"created_by": "cargo xtask image"}],
    }));
    let manifest = Blob::json(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config.described("config.v1+json"),
        "layers": [layer.described("layer.v1.tar")],
    }));
    let mut listed = manifest.described("manifest.v1+json");
    listed["platform"] = json!({"architecture": arch.name(), "os": "linux"});
    listed["annotations"] = json!({
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name,
    });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [listed],
    });
    let docker = json!([{
        "Config": config.path(),
        "RepoTags": [name],
        "Layers": [layer.path()],
    }]);

    let mut archive = tar::Builder::new(BufWriter::new(File::create(path)?));
    let layout = json!({"imageLayoutVersion": "1.0.0"});
    append(
        &mut archive,
        "oci-layout",
        layout.to_string().as_bytes(),
        0o644,
    )?;
    append(
        &mut archive,
        "index.json",
        index.to_string().as_bytes(),
        0o644,
    )?;
    append(
        &mut archive,
        "manifest.json",
        docker.to_string().as_bytes(),
        0o644,
    )?;
    for blob in [&manifest, &config, &layer] {
        append(&mut archive, &blob.path(), &blob.bytes, 0o644)?;
    }
    archive.into_inner()?.flush()?;
    Ok(())
}

/// The root file system: one file.
fn layer(binary: &[u8]) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::with_capacity(binary.len() + 4096));
    append(&mut archive, "weir", binary, 0o755)?;
    Ok(archive.into_inner()?)
}

/// Adds a file that tells nothing of who made it, and when.
fn append(
    archive: &mut tar::Builder<impl std::io::Write>,
    name: &str,
    bytes: &[u8],
    mode: u32,
) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    archive.append_data(&mut header, name, bytes)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io::Read as _};

    use super::*;

    fn files(archive: impl std::io::Read) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(archive);
        archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).unwrap();
                (entry.path().unwrap().display().to_string(), bytes)
            })
            .collect()
    }

    #[test]
    fn every_digest_of_the_archive_leads_to_its_blob_and_the_last_one_to_the_binary() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image.tar");
        write_archive(&path, b"the binary", Arch::Arm64, "localhost/weir:test").unwrap();
        let stored = files(File::open(&path).unwrap());
        let blob = |described: &Value| -> &Vec<u8> {
            let digest = described["digest"].as_str().unwrap();
            let bytes = &stored[&format!("blobs/{}", digest.replace(':', "/"))];
            assert_eq!(described["size"], bytes.len());
            assert_eq!(
                format!("sha256:{}", Blob::new(bytes.clone()).digest),
                digest
            );
            bytes
        };
        let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();

        let index = json(&stored["index.json"]);
        let listed = &index["manifests"][0];
        assert_eq!(
            listed["annotations"]["io.containerd.image.name"],
            "localhost/weir:test"
        );
        let manifest = json(blob(listed));
        let config = json(blob(&manifest["config"]));
        assert_eq!(config["architecture"], "arm64");
        assert_eq!(config["config"]["Entrypoint"], json!(["/weir"]));
        let layer = blob(&manifest["layers"][0]);
        assert_eq!(
            config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"],
            "a layer that is not compressed is its own content"
        );
        assert_eq!(
            files(layer.as_slice()),
            BTreeMap::from([("weir".to_owned(), b"the binary".to_vec())])
        );
        let docker = json(&stored["manifest.json"]);
        for path in [&docker[0]["Config"], &docker[0]["Layers"][0]] {
            assert!(stored.contains_key(path.as_str().unwrap()), "{path}");
        }
    }

    #[test]
    fn the_same_binary_gives_the_same_archive() {
        let directory = tempfile::tempdir().unwrap();
        let archive = |name: &str| {
            let path = directory.path().join(name);
            write_archive(&path, b"the binary", Arch::Amd64, "a/b:c").unwrap();
            fs::read(path).unwrap()
        };
        assert_eq!(archive("one"), archive("two"));
    }
}
