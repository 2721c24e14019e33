//! `cargo xtask deploy render`: what is made from the chart, which is the one truth.
//!
//! Everything that kustomize reads beside its own files is rendered by Helm, with these values:
//!
//! | directory | values |
//! |---|---|
//! | `deploy/base` | the defaults |
//! | `deploy/components/monitoring` | the monitoring options |
//! | `deploy/cleanup` | `cleanup.enabled` |
//!
//! The tests render again and compare (`tests/tests/deploy`).

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use crate::{kubernetes_tools::KubernetesTools, process, workspace::Workspace};

/// A directory's name, the values, and the chart's templates whose output goes there.
type Rendered = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

const RENDERED: &[Rendered] = &[
    (
        "base",
        &[],
        &[
            "serviceaccount",
            "clusterrole",
            "clusterrolebinding",
            "daemonset",
        ],
    ),
    (
        "components/monitoring",
        &[
            "podMonitor.enabled=true",
            "prometheusRule.enabled=true",
            "dashboard.enabled=true",
        ],
        &["podmonitor", "prometheusrule", "dashboard"],
    ),
    ("cleanup", &["cleanup.enabled=true"], &["daemonset"]),
];

/// Renders all of it into the source tree.
pub fn render(workspace: &Workspace) -> Result<()> {
    let tools = KubernetesTools::get(workspace)?;
    let deploy = workspace.root().join("deploy");
    for (directory, values, templates) in RENDERED {
        for template in *templates {
            let text = helm(&tools, &deploy, values, template)?;
            write(
                &deploy.join(directory).join(format!("{template}.yaml")),
                &text,
            )?;
        }
    }
    let settings = settings(&helm(&tools, &deploy, &[], "configmap")?);
    write(&deploy.join("base/settings.env"), &settings)
}

fn helm(tools: &KubernetesTools, deploy: &Path, values: &[&str], template: &str) -> Result<String> {
    let mut command = Command::new(&tools.helm);
    command
        .args(["template", "weir"])
        .arg(deploy.join("chart"))
        .args(["--namespace", "kube-system"])
        .args(["--show-only", &format!("templates/{template}.yaml")]);
    for value in values {
        command.args(["--set", value]);
    }
    Ok(tidy(&process::output(&mut command)?))
}

/// Without the separator that Helm begins with, and without blank lines at either end.
fn tidy(text: &str) -> String {
    format!("{}\n", text.trim().trim_start_matches("---").trim())
}

/// The data of a rendered ConfigMap as `NAME=value`, which is what kustomize reads.
fn settings(config_map: &str) -> String {
    config_map
        .lines()
        .filter_map(|line| line.trim().strip_prefix("WEIR_")?.split_once(": "))
        .map(|(name, value)| format!("WEIR_{name}={}\n", value.trim_matches('"')))
        .collect()
}

fn write(path: &Path, text: &str) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    println!("{}", path.display());
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_lines_of_an_environment_file() {
        let config_map = "kind: ConfigMap\ndata:\n  WEIR_LOG: \"info\"\n  WEIR_TC: \"auto\"\n";
        assert_eq!(settings(config_map), "WEIR_LOG=info\nWEIR_TC=auto\n");
    }

    #[test]
    fn rendered_files_begin_with_what_they_are() {
        assert_eq!(
            tidy("---\n# Source: a\nkind: B\n\n"),
            "# Source: a\nkind: B\n"
        );
    }
}
