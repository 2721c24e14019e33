//! A case: a file that says policies and labels, step by step, and some of what follows.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::cluster::{Changes, Cluster};
use crate::ground::Ground;
use crate::print;
use crate::table::{Cell, Spot, Table};

/// A file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What it shows.
    name: String,
    /// What the community's suite calls it, where it is in there.
    #[serde(default, rename = "community")]
    _community: Vec<String>,
    /// Changes, one after the other, and what holds after each.
    steps: Vec<Step>,
}

/// Some changes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    #[serde(default)]
    change: Changes,
    /// Cells of the table that are refused, in the words of [`Spot`].
    #[serde(default)]
    refused: Vec<String>,
    /// Cells that are allowed.
    #[serde(default)]
    allowed: Vec<String>,
}

/// Every case with the name of its file; one that cannot be read with what is wrong.
pub fn all() -> Result<Vec<(String, Result<Case>)>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
    let mut files: Vec<_> = fs::read_dir(&directory)
        .with_context(|| format!("list {}", directory.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    ensure!(!files.is_empty(), "{} has no cases", directory.display());
    let case = |path: &Path| -> Result<Case> {
        let text = fs::read_to_string(path)?;
        Ok(serde_saphyr::from_str(&text)?)
    };
    let name = |path: &Path| path.file_stem().unwrap_or_default().display().to_string();
    let cases = files.iter().map(|path| {
        let case = case(path).with_context(|| format!("read {}", path.display()));
        (name(path), case)
    });
    Ok(cases.collect())
}

impl Case {
    /// What must come out of each step.
    fn tables(&self) -> Result<Vec<(Cluster, Table<bool>)>> {
        let mut cluster = Cluster::new();
        let mut tables = Vec::new();
        for (index, step) in self.steps.iter().enumerate() {
            let table = step
                .take(&mut cluster)
                .with_context(|| format!("{}: step {}", self.name, index + 1))?;
            tables.push((cluster.clone(), table));
        }
        Ok(tables)
    }

    /// The evaluator and the case itself say the same.
    pub fn check(&self) -> Result<()> {
        self.tables().map(|_| ())
    }

    /// Plays it; gives every cell that came out wrong.
    pub fn show(&self, ground: &mut Ground) -> Result<Vec<String>> {
        let mut wrong = Vec::new();
        for (index, (cluster, expected)) in self.tables()?.into_iter().enumerate() {
            ground.apply(&cluster)?;
            let seen = ground.ask(&expected)?;
            let title = format!("{} ({}), step {}", self.name, ground.name(), index + 1);
            print::show(&title, &expected, &seen);
            let cells = print::differences(&expected, &seen);
            wrong.extend(cells.map(|cell| format!("step {}: {cell}", index + 1)));
        }
        Ok(wrong)
    }
}

impl Step {
    /// Changes the cluster; gives what holds then.
    fn take(&self, cluster: &mut Cluster) -> Result<Table<bool>> {
        cluster.change(&self.change)?;
        let table = cluster.expected();
        for (spots, allowed) in [(&self.refused, false), (&self.allowed, true)] {
            for text in spots {
                let spot = Spot::parse(text)?;
                let mut cells = Cell::all();
                let other = cells.find(|cell| spot.has(*cell) && *table.get(*cell) != allowed);
                if let Some(cell) = other {
                    let verdict = if allowed { "allowed" } else { "refused" };
                    bail!("the case has {text:?} {verdict}, the reference evaluator not so {cell}");
                }
            }
        }
        Ok(table)
    }
}
