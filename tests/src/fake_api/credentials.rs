//! By what clients know the server, and the server its clients.
//!
//! The files are those that the kubelet puts into a pod, written as it does: each as a whole.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// A certificate authority and a server's certificate by it.
pub(super) struct Authority {
    /// The authority's certificate.
    pub(super) pem: String,
    /// The server's side.
    pub(super) acceptor: TlsAcceptor,
}

impl Authority {
    /// For a server at this address.
    pub(super) fn new(server: IpAddr) -> Result<Self> {
        let key = KeyPair::generate().context("make the authority's key")?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key)?;
        let pem = certificate.pem();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().context("make the server's key")?;
        let names = vec![server.to_string(), "kubernetes.default.svc".to_owned()];
        let certificate = CertificateParams::new(names)?.signed_by(&key, &issuer)?;
        let private = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)?;
        Ok(Self {
            pem,
            acceptor: TlsAcceptor::from(Arc::new(config)),
        })
    }
}

/// The files of a service account, as a pod finds them.
#[derive(Clone, Debug)]
pub struct ServiceAccount {
    directory: PathBuf,
}

impl ServiceAccount {
    /// Makes the directory and writes them.
    pub(super) fn create(directory: &Path, authority: &str, token: &str) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
        let account = Self {
            directory: directory.to_owned(),
        };
        account.write("ca.crt", authority)?;
        account.write("namespace", "kube-system")?;
        account.write("token", token)?;
        Ok(account)
    }

    /// Where they are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the token is.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        self.directory.join("token")
    }

    /// Puts another token into its file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set_token(&self, token: &str) -> Result<()> {
        self.write("token", token)
    }

    /// Writes a kubeconfig for a server whose user has this account's token, and gives its path.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn kubeconfig(&self, server: &str) -> Result<PathBuf> {
        let mut cluster = json!({ "server": server });
        if server.starts_with("https:") {
            cluster["certificate-authority"] = json!(self.directory.join("ca.crt"));
        }
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "fake", "cluster": cluster}],
            "users": [{"name": "weir", "user": {"tokenFile": self.token_file()}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "weir"}}],
            "current-context": "fake",
        });
        self.write("kubeconfig", &config.to_string())?;
        Ok(self.directory.join("kubeconfig"))
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let (fresh, file) = (
            self.directory.join(format!(".{name}.new")),
            self.directory.join(name),
        );
        fs::write(&fresh, text)
            .and_then(|()| fs::rename(&fresh, &file))
            .with_context(|| format!("write {}", file.display()))
    }
}
