//! Running other programs.
//!
//! Two ways: [`step`] keeps a program's output back behind a line of progress and shows it when
//! the program fails; [`shown`] lets it speak for itself.

use std::{
    env, fmt, fs,
    io::{self, BufRead as _, BufReader, IsTerminal as _, Read},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::progress::Step;

/// The status lines of cargo: progress, not worth repeating in an error.
const CARGO_STATUS: [&str; 17] = [
    "Adding",
    "Blocking",
    "Building",
    "Checking",
    "Compiling",
    "Documenting",
    "Downloaded",
    "Downloading",
    "Finished",
    "Fresh",
    "Generated",
    "Installed",
    "Installing",
    "Locking",
    "Replacing",
    "Running",
    "Updating",
];

/// A program that did not succeed.
#[derive(Debug)]
struct Failed {
    command: String,
    how: String,
    output: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "`{}` {}", self.command, self.how)?;
        if !self.output.is_empty() {
            write!(formatter, ":\n{}", self.output)?;
        }
        Ok(())
    }
}

impl std::error::Error for Failed {}

/// One line of a program's output.
enum Line {
    Stdout(String),
    Stderr(String),
}

/// Runs a program as a named step and gives its standard output. Warnings are shown when it
/// succeeds, everything when it fails or is still running after `limit`.
pub fn step(name: &str, command: &mut Command, limit: Option<Duration>) -> Result<String> {
    let mut step = Step::start(name);
    let result = capture(command, limit, |line| step.note(line));
    match result {
        Ok(output) => {
            step.done();
            if let Some(warnings) = output.warnings() {
                eprintln!("{warnings}");
            }
            Ok(output.stdout)
        }
        Err(error) => {
            step.failed();
            Err(error)
        }
    }
}

/// Runs a program without a word, for questions that are answered at once.
pub fn output(command: &mut Command) -> Result<String> {
    Ok(capture(command, None, |_| ())?.stdout)
}

/// Runs a program for at most `limit`, and gives its standard output. `each` gets every line of it
/// as it comes.
pub fn watched(command: &mut Command, limit: Duration, each: impl FnMut(&str)) -> Result<String> {
    Ok(capture(command, Some(limit), each)?.stdout)
}

/// Runs a program that uses our own standard input and output.
pub fn shown(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("start `{}`", line_of(command)))?;
    if !status.success() {
        bail!("`{}` {}", line_of(command), describe(status));
    }
    Ok(())
}

/// Cargo itself, in the workspace's root.
///
/// `cargo run` describes the package it runs in the environment. Build scripts that watch those
/// variables would see them change between a build from here and a build by hand, and run again.
pub fn cargo(root: &Path) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"]
            .iter()
            .any(|prefix| text.starts_with(prefix))
        {
            command.env_remove(name);
        }
    }
    if io::stderr().is_terminal() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    command
}

/// Copies a program to where it is looked for. Whoever runs the old one goes on doing so.
pub fn install(program: &Path, to: &Path) -> Result<()> {
    let new = to.with_extension("new");
    fs::copy(program, &new)
        .and_then(|_| fs::rename(&new, to))
        .with_context(|| format!("copy {} to {}", program.display(), to.display()))
}

/// Where a program is on `PATH`.
pub fn find(program: &str) -> Option<std::path::PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

struct Output {
    stdout: String,
    stderr: String,
}

impl Output {
    fn warnings(&self) -> Option<String> {
        self.stderr
            .contains("warning")
            .then(|| without_status(&self.stderr))
    }
}

fn capture(
    command: &mut Command,
    limit: Option<Duration>,
    mut each: impl FnMut(&str),
) -> Result<Output> {
    let description = line_of(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start `{description}`"))?;
    let (sender, lines) = mpsc::channel();
    if let Some(pipe) = child.stdout.take() {
        forward(pipe, sender.clone(), Line::Stdout);
    }
    if let Some(pipe) = child.stderr.take() {
        forward(pipe, sender, Line::Stderr);
    }

    let deadline = limit.map(|limit| Instant::now() + limit);
    let mut output = Output {
        stdout: String::new(),
        stderr: String::new(),
    };
    loop {
        let left = deadline.map_or(Duration::MAX, |at| {
            at.saturating_duration_since(Instant::now())
        });
        match lines.recv_timeout(left) {
            Ok(Line::Stdout(line)) => {
                // Results for a program to read are not news for the user.
                if !line.starts_with('{') {
                    each(&line);
                }
                output.stdout += &line;
                output.stdout.push('\n');
            }
            Ok(Line::Stderr(line)) => {
                each(&line);
                output.stderr += &line;
                output.stderr.push('\n');
            }
            Err(RecvTimeoutError::Timeout) => {
                end(&mut child);
                bail!(Failed {
                    command: description,
                    how: format!("was still running after {} s", left_of(limit)),
                    output: without_status(&(output.stderr + &output.stdout)),
                });
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let status = child
        .wait()
        .with_context(|| format!("wait for `{description}`"))?;
    if !status.success() {
        bail!(Failed {
            command: description,
            how: describe(status),
            output: without_status(&(output.stderr + &output.stdout)),
        });
    }
    Ok(output)
}

fn forward(pipe: impl Read + Send + 'static, lines: Sender<Line>, which: fn(String) -> Line) {
    thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(io::Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            if lines.send(which(line)).is_err() {
                return;
            }
        }
    });
}

/// Ends a program that took too long. That it ended by itself in the meantime is no error.
fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn left_of(limit: Option<Duration>) -> u64 {
    limit.unwrap_or_default().as_secs()
}

fn without_status(output: &str) -> String {
    output
        .lines()
        .filter(|line| {
            let word = line.trim_start().split(' ').next().unwrap_or_default();
            !(line.starts_with(' ') && CARGO_STATUS.contains(&word))
        })
        .collect::<Vec<_>>()
        .join("\n")
}

fn line_of(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or(command.get_program());
    std::iter::once(program)
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

fn describe(status: ExitStatus) -> String {
    format!("failed ({status})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_output_is_given() {
        let text = output(Command::new("echo").arg("weir")).unwrap();
        assert_eq!(text, "weir\n");
    }

    #[test]
    fn a_failure_names_the_command_and_what_it_said() {
        let error = output(Command::new("sh").args(["-c", "echo no such thing >&2; exit 3"]));
        let message = error.unwrap_err().to_string();
        assert!(message.starts_with("`sh -c"), "{message}");
        assert!(message.contains("exit status: 3"), "{message}");
        assert!(message.ends_with("no such thing"), "{message}");
    }

    #[test]
    fn a_program_that_takes_too_long_is_ended() {
        let error = capture(
            Command::new("sh").args(["-c", "echo begun; exec tail -f /dev/null"]),
            Some(Duration::from_millis(50)),
            |_| (),
        );
        let message = error.err().expect("it never ends by itself").to_string();
        assert!(message.contains("was still running"), "{message}");
    }

    #[test]
    fn cargo_status_lines_are_left_out_of_errors() {
        let output = "   Compiling weir v0.1.0\nerror: expected `;`\n  --> src/lib.rs:1\n";
        assert_eq!(
            without_status(output),
            "error: expected `;`\n  --> src/lib.rs:1"
        );
    }
}
