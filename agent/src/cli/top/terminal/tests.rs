//! A real terminal is given back on every way out. What shows something there is this very test
//! program in another process, with a test that is no test unless it is told how to end.

use std::{
    env,
    fs::File,
    io::{ErrorKind, Read as _, Write as _},
    os::fd::OwnedFd,
    process::{Child, Command, ExitStatus, Stdio},
    time::Instant,
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    pty::{Winsize, openpty},
    sys::{
        signal::{Signal, kill},
        termios::{Termios, tcgetattr},
    },
    unistd::Pid,
};

use super::*;

/// How the other process is to end.
const ENDS: &str = "WEIR_TEST_TOP_ENDS";
const PATIENCE: Duration = Duration::from_secs(60);
const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";
const HIDE_CURSOR: &str = "\x1b[?25l";
const SHOW_CURSOR: &str = "\x1b[?25h";

#[test]
#[ignore = "the other process of the tests beside it"]
fn shown() {
    let Ok(ends) = env::var(ENDS) else {
        return;
    };
    let (sender, messages) = channel();
    let signals = Signals::listen().unwrap();
    teller(&sender, |sender| signals.tell(sender));
    teller(&sender, keys);
    match ends.as_str() {
        "error" => {
            let error = Message::End(Err(anyhow!("it was asked for")));
            assert!(send(&sender, error));
        }
        "panic" => teller(&sender, |_| panic!("it was asked for")),
        _ => {}
    }
    let result = show_until_end(&messages);
    assert_eq!(result.is_err(), ["error", "panic"].contains(&ends.as_str()));
}

/// Such a process, and its terminal.
struct Shown {
    process: Child,
    master: File,
    /// Kept open, so that the terminal's settings outlive the process.
    slave: OwnedFd,
    before: Termios,
    said: Vec<u8>,
}

impl Shown {
    fn start(ends: &str) -> Self {
        let size = Winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pair = openpty(Some(&size), None).unwrap();
        let before = tcgetattr(&pair.slave).unwrap();
        fcntl(&pair.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let stdio = || Stdio::from(pair.slave.try_clone().unwrap());
        let process = Command::new(env::current_exe().unwrap())
            .args([
                "--exact",
                "cli::top::terminal::tests::shown",
                "--ignored",
                "--nocapture",
            ])
            .env(ENDS, ends)
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .unwrap();
        Self {
            process,
            master: pair.master.into(),
            slave: pair.slave,
            before,
            said: Vec::new(),
        }
    }

    /// Reads what it has said until now.
    fn read(&mut self) {
        let mut bytes = [0; 4096];
        loop {
            match self.master.read(&mut bytes) {
                Ok(count) => self.said.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("read from the terminal: {error}"),
            }
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.said).into_owned()
    }

    fn until<T>(&mut self, what: &str, mut look: impl FnMut(&mut Self) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.read();
            if let Some(found) = look(self) {
                return found;
            }
            assert!(Instant::now() < deadline, "never {what}: {:?}", self.text());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until it has taken the terminal and drawn on it.
    fn until_shown(&mut self) {
        self.until("shown", |this| {
            this.text().contains(HIDE_CURSOR).then_some(())
        });
        assert_ne!(tcgetattr(&self.slave).unwrap(), self.before, "raw mode");
    }

    fn ended(mut self) -> (ExitStatus, String) {
        let status = self.until("ended", |this| this.process.try_wait().unwrap());
        self.read();
        let after = tcgetattr(&self.slave).unwrap();
        assert_eq!(after, self.before, "the terminal's settings");
        let text = self.text();
        let last = |part: &str| text.rfind(part);
        assert!(last(ENTER).is_some(), "{text:?}");
        assert!(last(LEAVE) > last(ENTER), "the screen: {text:?}");
        assert!(
            last(SHOW_CURSOR) > last(HIDE_CURSOR),
            "the cursor: {text:?}"
        );
        (status, text)
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        // A test that fails leaves nothing behind.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn keys_that_end_it_give_the_terminal_back() {
    for key in [&b"q"[..], b"\x03"] {
        let mut shown = Shown::start("key");
        shown.until_shown();
        shown.master.write_all(key).unwrap();
        let (status, text) = shown.ended();
        assert!(status.success(), "{key:?}: {text:?}");
    }
}

#[test]
fn signals_that_end_it_give_the_terminal_back() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut shown = Shown::start("signal");
        shown.until_shown();
        let process = Pid::from_raw(i32::try_from(shown.process.id()).unwrap());
        kill(process, signal).unwrap();
        let (status, text) = shown.ended();
        assert!(status.success(), "{signal}: {text:?}");
    }
}

#[test]
fn errors_and_panics_give_the_terminal_back() {
    for ends in ["error", "panic"] {
        let (status, text) = Shown::start(ends).ended();
        assert!(status.success(), "{ends}: {text:?}");
        // Said where it can be read.
        let said = text.rfind("it was asked for");
        assert!(ends == "error" || said.is_some(), "{text:?}");
    }
}
