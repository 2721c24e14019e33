//! Processes placed in a bed: in a network namespace and a cgroup from their first instruction.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::cgroup;
use super::keeper::Keeper;

/// The name of the program that starts and plays a bed's processes.
const HELPER: &str = "weir-testpod";

/// The helper beside the running program, or beside its directory, where cargo puts it for tests.
pub fn helper() -> Result<PathBuf> {
    let program = std::env::current_exe().context("find the running program")?;
    let found = program
        .ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join(HELPER))
        .find(|candidate| candidate.is_file());
    found.with_context(|| {
        format!(
            "{HELPER} is not beside {}; build it: cargo build -p weir-tests --bins",
            program.display()
        )
    })
}

/// Where in a bed a process runs.
#[derive(Clone, Debug)]
pub struct Place {
    /// Parent of the process, and holder of its mounts.
    pub keeper: Keeper,
    /// The program that enters the place.
    pub helper: PathBuf,
    /// The file of its network namespace.
    pub namespace: PathBuf,
    /// Its group, made if need be.
    pub group: PathBuf,
}

/// What to do with a process's output.
#[derive(Debug)]
pub enum Streams {
    /// Both to this file.
    Log(File),
    /// Input and output to the owner, errors to the owner's own.
    Dialogue,
    /// Kept for [`Place::output`].
    Capture,
}

impl Place {
    /// Starts a program here. It ends with the bed.
    pub fn start<A: AsRef<OsStr>>(
        &self,
        program: &Path,
        arguments: &[A],
        streams: Streams,
    ) -> Result<Process> {
        cgroup::create(&self.group)?;
        let mut command = Command::new(&self.helper);
        command
            .arg("enter")
            .args([&self.namespace, &self.group])
            .arg("--")
            .arg(program)
            .args(arguments)
            // Ctrl-C in the terminal is for the bed's owner, who ends this one.
            .process_group(0);
        match streams {
            Streams::Log(file) => {
                let errors = file.try_clone().context("share the log file")?;
                command.stdin(Stdio::null()).stdout(file).stderr(errors);
            }
            Streams::Dialogue => {
                command.stdin(Stdio::piped()).stdout(Stdio::piped());
            }
            Streams::Capture => {
                command
                    .stdin(Stdio::null())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped());
            }
        }
        let name = program.display().to_string();
        let child = self
            .keeper
            .run(move || command.spawn().with_context(|| format!("start {name}")))?;
        Ok(Process { child: Some(child) })
    }

    /// Runs a program that must succeed; gives what it said.
    ///
    /// # Errors
    /// It cannot be started, or fails: with what it said of that.
    pub fn run<A: AsRef<OsStr> + fmt::Debug>(
        &self,
        program: &Path,
        arguments: &[A],
    ) -> Result<String> {
        let output = self.output(program, arguments)?;
        ensure!(
            output.status.success(),
            "{} {arguments:?} ({}): {}",
            program.display(),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs a program to its end.
    pub fn output<A: AsRef<OsStr>>(&self, program: &Path, arguments: &[A]) -> Result<Output> {
        self.start(program, arguments, Streams::Capture)?.output()
    }
}

/// A process in a bed, ended when dropped.
#[derive(Debug)]
pub struct Process {
    /// Present until it was waited for.
    child: Option<Child>,
}

impl Process {
    /// Its process id; zero once it was waited for.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// The running child.
    pub fn child(&mut self) -> Result<&mut Child> {
        self.child.as_mut().context("the process was ended")
    }

    /// How it ended, if it has.
    pub fn status(&mut self) -> Result<Option<ExitStatus>> {
        self.child()?.try_wait().context("look at a process")
    }

    /// Sends a signal and waits for the end.
    pub fn end(&mut self, signal: Signal) -> Result<Option<ExitStatus>> {
        let Some(mut child) = self.child.take() else {
            return Ok(None);
        };
        let id = i32::try_from(child.id()).context("a process id fits")?;
        if child.try_wait().context("look at a process")?.is_none() {
            kill(Pid::from_raw(id), signal).with_context(|| format!("send {signal} to {id}"))?;
        }
        Ok(Some(child.wait().context("wait for a process")?))
    }

    /// Waits for the end; gives what it said, if that was kept.
    pub fn output(mut self) -> Result<Output> {
        match self.child.take() {
            Some(child) => child.wait_with_output().context("wait for a process"),
            None => bail!("the process was ended"),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing is lost when this fails: the guardian ends whatever lives in the bed.
        let _ = self.end(Signal::SIGKILL);
    }
}

/// The helper's part: become `program` in a namespace and a group, and end with the parent.
pub fn enter(namespace: &Path, group: &Path, program: &[OsString]) -> Result<()> {
    set_pdeathsig(Signal::SIGKILL).context("ask to end with the parent")?;
    cgroup::enter(group)?;
    let network = open(namespace)?;
    setns(network, CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("enter network namespace {}", namespace.display()))?;
    become_program(program)
}

/// Becomes `program` in a group and beside a process: in its network and with its mounts. The
/// calling process must have no other threads.
pub fn join(process: u32, group: &Path, program: &[OsString]) -> Result<()> {
    cgroup::enter(group)?;
    let namespaces = PathBuf::from(format!("/proc/{process}/ns"));
    let (network, mounts) = (
        open(&namespaces.join("net"))?,
        open(&namespaces.join("mnt"))?,
    );
    setns(network, CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("enter the network namespace of process {process}"))?;
    setns(mounts, CloneFlags::CLONE_NEWNS)
        .with_context(|| format!("enter the mount namespace of process {process}"))?;
    become_program(program)
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("open {}", path.display()))
}

fn become_program(program: &[OsString]) -> Result<()> {
    let (name, arguments) = program.split_first().context("no program was given")?;
    let error = Command::new(name).args(arguments).exec();
    Err(error).with_context(|| format!("run {}", name.display()))
}
