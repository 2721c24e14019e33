//! Who tells the agent of its objects: an API server, or files in a directory.

use anyhow::{Context as _, Result};
use serde_json::Value;
use weir_tests::bed::manifests::Manifests;
use weir_tests::fake_api::FakeApi;

/// Objects in one of the files that hold the cluster: what changes has a file of its own.
const IN_A_FILE: usize = 500;

/// Which of them is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Api,
    Files,
}

impl Source {
    /// What people read.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Api => "API server",
            Self::Files => "manifests",
        }
    }
}

/// One of them, running.
pub enum Teller {
    Api(Box<FakeApi>),
    Files(Manifests),
}

impl Teller {
    /// Has it tell of a whole cluster.
    pub fn fill(&self, objects: impl Iterator<Item = Value>) -> Result<()> {
        match self {
            Self::Api(api) => api.apply(objects),
            Self::Files(files) => {
                let objects: Vec<Value> = objects.collect();
                for (number, some) in objects.chunks(IN_A_FILE).enumerate() {
                    files.put(&format!("cluster-{number}.yaml"), some)?;
                }
                Ok(())
            }
        }
    }

    /// Has it tell that these objects are so.
    pub fn apply(&self, objects: impl IntoIterator<Item = Value>) -> Result<()> {
        match self {
            Self::Api(api) => api.apply(objects),
            Self::Files(files) => objects.into_iter().try_for_each(|object| {
                files.put(&file_of(&object)?, std::slice::from_ref(&object))?;
                Ok(())
            }),
        }
    }

    /// Has it tell that this object is gone.
    pub fn delete(&self, object: &Value) -> Result<()> {
        match self {
            Self::Api(api) => api.delete(object).map(drop),
            Self::Files(files) => files.remove(&file_of(object)?),
        }
    }
}

/// The file that holds this object alone.
fn file_of(object: &Value) -> Result<String> {
    let kind = object["kind"].as_str().context("an object has a kind")?;
    let name = object["metadata"]["name"]
        .as_str()
        .context("an object has a name")?;
    Ok(format!("{kind}-{name}.yaml"))
}
