//! `weir policy test`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, anyhow};
use clap::Args;

use crate::{
    cli::{
        agent_socket,
        output::{self, ListFormat, bad, dim, good},
    },
    config::Paths,
    explain::{
        changes::{Change, Comparison, Group},
        proposal::{File, Proposal, Tested, test as compare},
    },
    sources::manifests::directory::scan,
};

/// What `weir policy test` can be told.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Files or directories of manifests; `-` is the standard input
    #[arg(value_name = "FILES", required_unless_present = "without")]
    files: Vec<PathBuf>,

    /// As if this policy were gone
    #[arg(long, value_name = "NAMESPACE/NAME", value_delimiter = ',')]
    without: Vec<String>,

    /// Compare with this directory of manifests instead of the agent's cluster
    #[arg(long, value_name = "DIR")]
    manifests: Option<PathBuf>,

    #[command(flatten)]
    paths: Paths,

    /// How to show it; wide: each pod by itself
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: ListFormat,
}

/// Columns of a matrix that a terminal has room for.
const MAX_COLUMNS: usize = 60;

/// Asks, and shows what would change.
pub fn test(arguments: &Arguments) -> Result<ExitCode> {
    let mut files = Vec::new();
    for path in &arguments.files {
        files.extend(read(path)?);
    }
    let proposal = Proposal {
        files,
        without: arguments.without.clone(),
    };
    let tested: Tested = match &arguments.manifests {
        Some(manifests) => {
            let scene = super::scene(manifests)?;
            compare(&scene, &proposal).map_err(|why| anyhow!(why))?
        }
        None => agent_socket::post(&arguments.paths.run_dir, "/v1/policy/test", &proposal)?,
    };
    for problem in &tested.problems {
        output::warning(problem);
    }
    match arguments.output.encoding() {
        Some(encoding) => output::encode(encoding, &tested)?,
        None => show_to_people(&tested.comparison, arguments.output == ListFormat::Wide),
    }
    let is_same = tested.comparison.changes.is_empty();
    Ok(ExitCode::from(u8::from(!is_same)))
}

fn read(path: &Path) -> Result<Vec<File>> {
    let name = path.display().to_string();
    if name == "-" {
        let mut text = String::new();
        let mut input = std::io::stdin();
        input
            .read_to_string(&mut text)
            .context("read the standard input")?;
        return Ok(vec![File { name, text }]);
    }
    if path.is_dir() {
        let found = scan(path).map_err(|fault| anyhow!(fault))?;
        return found
            .into_iter()
            .map(|(file, text)| {
                let name = path.join(file).display().to_string();
                let text = text.map_err(|fault| anyhow!("{name}: {fault}"))?;
                Ok(File { name, text })
            })
            .collect();
    }
    let text = fs::read_to_string(path).with_context(|| format!("read {name}"))?;
    Ok(vec![File { name, text }])
}

/// What changes between two.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    allows: bool,
    refuses: bool,
}

impl Cell {
    /// One column wide.
    fn text(self) -> String {
        match (self.allows, self.refuses) {
            (false, false) => dim("."),
            (true, false) => good("+"),
            (false, true) => bad("-"),
            (true, true) => bad("±"),
        }
    }
}

fn show_to_people(comparison: &Comparison, is_wide: bool) {
    let Comparison { groups, changes } = comparison;
    if changes.is_empty() {
        output::line(&good("nothing changes"));
        return;
    }
    let mut cells: BTreeMap<(usize, usize), Cell> = BTreeMap::new();
    let mut concerned = BTreeSet::new();
    for change in changes {
        concerned.extend([change.from, change.to]);
        let cell = cells.entry((change.from, change.to)).or_default();
        cell.allows |= change.allowed;
        cell.refuses |= !change.allowed;
    }
    // Pods first, each by its name, or as many as are alike in one row.
    let mut rows: Vec<(bool, String, usize)> = Vec::new();
    for index in concerned {
        let group = &groups[index];
        if is_wide {
            let members = group.members.iter();
            rows.extend(members.map(|name| (group.outside, name.clone(), index)));
        } else {
            rows.push((group.outside, title(group), index));
        }
    }
    rows.sort();
    if rows.len() <= MAX_COLUMNS {
        matrix(&rows, is_wide, groups, &cells);
    } else {
        output::line(&dim(&format!(
            "{} parties: too many for a matrix; -o json has all",
            rows.len()
        )));
    }
    let total = |allowed| changes.iter().filter(|it| it.allowed == allowed).count();
    for (allowed, heading) in [(true, "Newly allowed"), (false, "Newly refused")] {
        if total(allowed) == 0 {
            continue;
        }
        output::heading(heading);
        output::table(
            ["FROM", "TO", "WHAT", "WHY"],
            changes
                .iter()
                .filter(|change| change.allowed == allowed)
                .map(|change| row(groups, change)),
        );
    }
}

/// Each row a sender, each column a receiver, by the numbers in front of the rows.
fn matrix(
    rows: &[(bool, String, usize)],
    is_wide: bool,
    groups: &[Group],
    cells: &BTreeMap<(usize, usize), Cell>,
) {
    let width = rows.len().to_string().len();
    let names = rows.iter().map(|(_, name, _)| name.chars().count());
    let name_width = names.max().unwrap_or(0);
    let header: Vec<_> = (1..=rows.len())
        .map(|number| format!("{number:>width$}"))
        .collect();
    output::line(&dim(&format!(
        "{:>width$} {:name_width$}  {}",
        "",
        "from \\ to",
        header.join(" ")
    )));
    for (number, (is_outside, name, from)) in (1..).zip(rows) {
        let line: Vec<String> = (1..)
            .zip(rows)
            .map(|(other, (is_beyond, _, to))| {
                // A pod may always talk to itself, and policies are about pods.
                let is_one = is_wide || groups[*from].members.len() == 1;
                let is_nothing = number == other && is_one || *is_outside && *is_beyond;
                let cell = cells.get(&(*from, *to)).copied().unwrap_or_default();
                let text = if is_nothing {
                    " ".to_owned()
                } else {
                    cell.text()
                };
                format!("{}{text}", " ".repeat(width - 1))
            })
            .collect();
        output::line(&format!(
            "{} {name:name_width$}  {}",
            dim(&format!("{number:>width$}")),
            line.join(" ")
        ));
    }
    output::line(&dim(
        "+ newly allowed   - newly refused   ± both, by port   . as before",
    ));
}

fn row(groups: &[Group], change: &Change) -> [String; 4] {
    let family = change
        .family
        .map_or_else(String::new, |family| format!(" (IPv{family})"));
    [
        title(&groups[change.from]),
        title(&groups[change.to]),
        format!("{}{family}", change.what),
        change.why.clone(),
    ]
}

/// `shop/cart-1`, `shop/cart-1 and 3 like it`
fn title(group: &Group) -> String {
    match group.members.as_slice() {
        [] => String::new(),
        [only] => only.clone(),
        [first, others @ ..] => format!("{first} and {} like it", others.len()),
    }
}
