//! Directories and file systems that the agent works with.

use std::{fs, path::Path};

use nix::{
    sys::statfs::{CGROUP2_SUPER_MAGIC, NSFS_MAGIC, statfs},
    unistd::{AccessFlags, access},
};

use super::Finding;
use crate::{
    config::{Paths, Places},
    maps::pins::Pins,
};

pub(super) fn examine(paths: &Paths, places: &Places) -> Vec<Finding> {
    vec![
        cgroup(places),
        bpf_file_system(&paths.bpffs),
        run_directory(&paths.run_dir),
        namespaces(&places.netns_dir),
        records(&places.cni_results_dir),
    ]
}

fn cgroup(places: &Places) -> Finding {
    let name = "cgroup v2";
    let root = match places.cgroup_root() {
        Ok(root) => root,
        Err(error) => {
            return Finding::error(
                name,
                format!("{error:#}"),
                "mount the host's cgroup v2 tree and name it with --cgroup-root",
            );
        }
    };
    match statfs(&root) {
        Ok(status) if status.filesystem_type() == CGROUP2_SUPER_MAGIC => judge_cgroup(&root),
        Ok(_) => Finding::error(
            name,
            format!("{} is of another file system", root.display()),
            "name the root of the cgroup v2 tree with --cgroup-root (often /sys/fs/cgroup or \
             /sys/fs/cgroup/unified)",
        ),
        Err(error) => Finding::error(
            name,
            format!("{}: {error}", root.display()),
            "mount the host's cgroup v2 tree and name it with --cgroup-root",
        ),
    }
}

/// Every group but the root of all has this file.
fn judge_cgroup(root: &Path) -> Finding {
    let name = "cgroup v2";
    if root.join("cgroup.events").exists() {
        return Finding::warning(
            name,
            format!(
                "{} is not the root of the kernel's tree: sockets of processes beyond it are not \
                 served",
                root.display()
            ),
            "where nodes are containers (kind) that is as it should be; else mount the host's \
             /sys/fs/cgroup (hostPath) and name it with --cgroup-root",
        );
    }
    Finding::ok(name, format!("{} is its root", root.display()))
}

fn bpf_file_system(bpffs: &Path) -> Finding {
    let name = "BPF file system";
    if let Err(error) = Pins::new(bpffs).check_mounted() {
        return Finding::error(
            name,
            format!("{error:#}"),
            format!("mount -t bpf bpf {}", bpffs.display()),
        );
    }
    match access(bpffs, AccessFlags::W_OK) {
        Ok(()) => Finding::ok(name, format!("mounted at {}", bpffs.display())),
        Err(error) => Finding::error(
            name,
            format!("{} cannot be written: {error}", bpffs.display()),
            "mount it writable, and run as root",
        ),
    }
}

fn run_directory(run_dir: &Path) -> Finding {
    let name = "run directory";
    // What is not there yet is made in the first that is.
    let there = run_dir.ancestors().find(|path| path.exists());
    let there = there.unwrap_or(run_dir);
    if !there.is_dir() {
        return Finding::error(
            name,
            format!("{} is not a directory", there.display()),
            "name another with --run-dir",
        );
    }
    match access(there, AccessFlags::W_OK) {
        Ok(()) => Finding::ok(name, format!("{} can be written", run_dir.display())),
        Err(error) => Finding::error(
            name,
            format!("{} cannot be written: {error}", run_dir.display()),
            "mount a writable directory there, or name another with --run-dir",
        ),
    }
}

fn namespaces(directory: &Path) -> Finding {
    let name = "network namespaces";
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            return Finding::warning(
                name,
                format!(
                    "{}: {error}: pods' interfaces are not found",
                    directory.display()
                ),
                "mount the directory in which the container runtime keeps them (hostPath, often \
                 /run/netns), or name it with --netns-dir",
            );
        }
    };
    let (mut visible, mut hidden) = (0, 0);
    for entry in entries.flatten() {
        let is_one =
            statfs(&entry.path()).is_ok_and(|status| status.filesystem_type() == NSFS_MAGIC);
        if is_one {
            visible += 1;
        } else {
            hidden += 1;
        }
    }
    judge_namespaces(directory, visible, hidden)
}

fn judge_namespaces(directory: &Path, visible: usize, hidden: usize) -> Finding {
    let name = "network namespaces";
    let found = format!("{visible} in {}", directory.display());
    match (visible, hidden) {
        (_, 0) => Finding::ok(name, found),
        (0, _) => Finding::error(
            name,
            format!("{found}, and {hidden} files that are none: mounts do not arrive here"),
            "mount it with mountPropagation: HostToContainer",
        ),
        (_, _) => Finding::warning(
            name,
            format!("{found}, and {hidden} files that are none"),
            "perhaps what pods left that are gone; with mountPropagation: HostToContainer new ones \
             arrive",
        ),
    }
}

fn records(directory: &Path) -> Finding {
    let name = "CNI records";
    match fs::read_dir(directory) {
        Ok(entries) => {
            let count = entries.flatten().count();
            Finding::ok(name, format!("{count} in {}", directory.display()))
        }
        Err(error) => Finding::warning(
            name,
            format!(
                "{}: {error}: a pod's interface is known once its address is",
                directory.display()
            ),
            "normal before the first pod; else mount the directory (hostPath, often \
             /var/lib/cni), or name it with --cni-results-dir",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn a_part_of_a_cgroup_tree_is_told_from_its_root() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(judge_cgroup(directory.path()).state, State::Ok);
        fs::write(directory.path().join("cgroup.events"), "populated 1\n").unwrap();
        assert_eq!(judge_cgroup(directory.path()).state, State::Warning);
    }

    #[test]
    fn namespaces_that_do_not_arrive_in_the_container_are_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert_eq!(namespaces(path).state, State::Ok, "no pod yet");
        fs::write(path.join("cni-1"), "").unwrap();
        let finding = namespaces(path);
        assert_eq!(finding.state, State::Error, "{finding:?}");
        assert_eq!(judge_namespaces(path, 3, 1).state, State::Warning);
        assert_eq!(namespaces(&path.join("none")).state, State::Warning);
    }

    #[test]
    fn a_directory_that_is_to_be_made_needs_one_that_can_be_written() {
        let directory = tempfile::tempdir().unwrap();
        let finding = run_directory(&directory.path().join("run/weir"));
        assert_eq!(finding.state, State::Ok, "{finding:?}");
        fs::write(directory.path().join("file"), "").unwrap();
        let finding = run_directory(&directory.path().join("file/weir"));
        assert_eq!(finding.state, State::Error, "{finding:?}");
    }

    #[test]
    fn what_is_no_bpf_file_system_cannot_hold_pins() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(bpf_file_system(directory.path()).state, State::Error);
    }
}
