//! A Kubernetes API server that holds what a test says, and misbehaves on command.
//!
//! It speaks the real protocol over real sockets: lists in pages, watches with bookmarks, versions
//! that expire, selectors, tokens, TLS, and the `Status` objects of a real server. It has no
//! validation, no defaults and no controllers: what a test applies is what is there.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use weir_tests::fake_api::{Cut, FakeApi, Options};
//!
//! let api = FakeApi::start(&Options::default())?;
//! api.apply([serde_json::json!({
//!     "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"},
//! })])?;
//! api.cut_watches(Cut::Reset);
//! api.leave()?; // refuses connections
//! api.come_back()?;
//! # Ok(())
//! # }
//! ```
//!
//! The server lives on threads of its own; every function of [`FakeApi`] may be called from
//! anywhere. What it does by chance it does by a seed, in the order in which requests come.

mod credentials;
mod discovery;
mod faults;
mod list;
mod resource;
mod selector;
mod server;
mod status;
mod store;
mod watches;
mod wire;
mod write;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::runtime::Runtime;

pub use credentials::ServiceAccount;
pub use faults::{Chance, Cut, Expiry, Faults, Refusal};
pub use resource::Resource;
pub use server::Asked;
pub use wire::Hangup;

use crate::bed::namespace::Namespace;
use credentials::Authority;
use server::Server;
use wire::Listening;

/// How a server is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it listens; port 0 is one that is free.
    pub address: SocketAddr,
    /// With TLS, and for clients with a token only?
    pub is_secure: bool,
    /// What happens by chance.
    pub seed: u64,
    /// How often a watch gets a bookmark.
    pub bookmark_interval: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            is_secure: false,
            seed: 0,
            bookmark_interval: Duration::from_secs(1),
        }
    }
}

/// The server. Dropping it ends it.
#[derive(Debug)]
pub struct FakeApi {
    server: Arc<Server>,
    listening: Mutex<Listening>,
    address: SocketAddr,
    /// The certificate of its authority, if it has one.
    authority: Option<String>,
    tokens: Mutex<u64>,
    /// Present until the end.
    runtime: Option<Runtime>,
}

impl Drop for FakeApi {
    fn drop(&mut self) {
        // It may be an asynchronous test that ends, which must not wait for watches to do so.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl FakeApi {
    /// Starts one in this process's network.
    ///
    /// # Errors
    /// The address is taken, or a thread cannot be started.
    pub fn start(options: &Options) -> Result<Self> {
        Self::serve(wire::bind(options.address)?, options)
    }

    /// Starts one in another network: its sockets are there, its threads in this process.
    ///
    /// # Errors
    /// The address is taken or is none of that network's.
    pub fn start_in(namespace: &Namespace, options: &Options) -> Result<Self> {
        let socket = namespace.enter(|| wire::bind(options.address))?;
        Self::serve(socket, options)
    }

    fn serve(socket: std::net::TcpListener, options: &Options) -> Result<Self> {
        let address = socket.local_addr().context("find the address")?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("fake-api")
            .enable_all()
            .build()
            .context("start a runtime")?;
        let server = Arc::new(Server::new(options.seed, options.bookmark_interval));
        let authority = match options.is_secure {
            true => Some(Authority::new(address.ip())?),
            false => None,
        };
        let (authority, tls) = match authority {
            Some(Authority { pem, acceptor }) => (Some(pem), Some(acceptor)),
            None => (None, None),
        };
        let router = server::router(Arc::clone(&server));
        let listening = Listening::start(socket, router, tls, runtime.handle().clone())?;
        let api = Self {
            server,
            listening: Mutex::new(listening),
            address,
            authority,
            tokens: Mutex::new(0),
            runtime: Some(runtime),
        };
        if options.is_secure {
            api.renew_token();
        }
        Ok(api)
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its base.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = match self.authority {
            Some(_) => "https",
            None => "http",
        };
        format!("{scheme}://{}", self.address)
    }

    /// Writes the files of a service account into a directory.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn service_account(&self, directory: &Path) -> Result<ServiceAccount> {
        let authority = self.authority.as_deref().unwrap_or_default();
        ServiceAccount::create(directory, authority, &self.token())
    }

    /// The token that is valid.
    #[must_use]
    pub fn token(&self) -> String {
        format!("token-{}", *locked(&self.tokens))
    }

    /// The token that was valid is not any more; gives the one that is, from now on.
    pub fn renew_token(&self) -> String {
        *locked(&self.tokens) += 1;
        let token = self.token();
        let valid = BTreeSet::from([token.clone()]);
        self.server.set_tokens(Some(valid));
        token
    }

    /// Puts objects in their places, all before anybody sees one of them.
    ///
    /// # Errors
    /// One has no name or is of a kind that the server does not hold. Those before it are there.
    pub fn apply(&self, objects: impl IntoIterator<Item = Value>) -> Result<()> {
        self.server.change(|store| {
            objects
                .into_iter()
                .try_for_each(|object| store.apply(object).map(drop))
        })
    }

    /// Takes the object of this kind and name away; tells whether it was there.
    ///
    /// # Errors
    /// It has no name or is of a kind that the server does not hold.
    pub fn delete(&self, object: &Value) -> Result<bool> {
        let (resource, key) = store::identify(object)?;
        let gone = self.server.change(|store| store.delete(resource, &key));
        Ok(gone.is_some())
    }

    /// All objects, with what the server added.
    #[must_use]
    pub fn objects(&self) -> Vec<Value> {
        self.server.store().all().cloned().collect()
    }

    /// Those of a kind.
    #[must_use]
    pub fn objects_of(&self, resource: Resource) -> Vec<Value> {
        let objects = self.server.store().objects(resource);
        objects.into_values().map(|it| Value::clone(&it)).collect()
    }

    /// The version of everything.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.server.store().version()
    }

    /// Misbehaves differently from now on.
    pub fn set_faults(&self, change: impl FnOnce(&mut Faults)) {
        self.server.faults().send_modify(change);
    }

    /// How it misbehaves now: what was to happen a number of times is counted down here.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.server.faults().borrow().clone()
    }

    /// Behaves from now on.
    pub fn set_no_faults(&self) {
        self.set_faults(|faults| *faults = Faults::default());
    }

    /// Ends all watches that there are.
    pub fn cut_watches(&self, how: Cut) {
        let cuts = self.server.cuts();
        cuts.send_modify(|(count, last)| {
            *count += 1;
            *last = Some(how);
        });
    }

    /// Whoever watches from what was before has to list anew, and whoever lists to begin again.
    /// Watches that there are go on.
    pub fn forget_history(&self) {
        self.server.change(store::Store::forget);
    }

    /// Only this many changes can be followed from now on.
    pub fn set_history(&self, changes: usize) {
        self.server.change(|store| store.set_window(changes));
    }

    /// Resets every connection and refuses new ones, until it comes back.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn leave(&self) -> Result<()> {
        locked(&self.listening).leave(Hangup::Reset)
    }

    /// Is there again, with whatever it holds then.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn come_back(&self) -> Result<()> {
        locked(&self.listening).come_back()
    }

    /// What was asked so far, in the order of the answers' beginnings.
    #[must_use]
    pub fn requests(&self) -> Vec<Asked> {
        self.server.requests()
    }

    /// How many requests this verb for this kind there were.
    #[must_use]
    pub fn count(&self, verb: &str, resource: Resource) -> usize {
        let requests = self.server.requests();
        let all = requests.iter();
        all.filter(|it| it.verb == verb && it.resource == Some(resource))
            .count()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
