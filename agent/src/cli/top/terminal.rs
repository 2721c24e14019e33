//! The terminal of `weir top`, and what comes to it: keys, readings, refused packets, signals.
//!
//! Each comes from a thread of its own, so that a slow table holds up no key. The terminal is given
//! back as it was on every way out: the end, an error, a panic, SIGINT, SIGTERM and SIGHUP.

use std::{
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyEvent, KeyEventKind},
};
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
};

use super::{
    draw::draw,
    read::{self, Presence, Sample},
    state::{Asked, Refusal, State},
};
use crate::config::Paths;

/// How often the agent is asked how it is.
const PRESENCE: Duration = Duration::from_secs(5);
/// After the agent has told nothing.
const AGAIN: Duration = Duration::from_secs(2);

/// What comes.
pub enum Message {
    /// A key was pressed.
    Key(KeyEvent),
    /// The terminal has another size.
    Resized,
    /// The tables, or why they cannot be read.
    Sample(Result<Sample>),
    /// Whether an agent runs.
    Presence(Presence),
    /// A packet was refused.
    Refused(Refusal),
    /// The agent tells nothing of refused packets.
    Silent(String),
    /// Nothing more can be shown, or nobody wants to see it.
    End(Result<()>),
}

/// Changes the state by what came.
pub fn take(state: &mut State, message: Message) -> Option<Result<()>> {
    match message {
        Message::Key(key) => match state.press(key) {
            Asked::End => return Some(Ok(())),
            Asked::Nothing => {}
        },
        Message::Resized => {}
        Message::Sample(Ok(sample)) => state.see(sample),
        Message::Sample(Err(fault)) => state.cannot_see(format!("{fault:#}")),
        Message::Presence(presence) => state.presence = Some(presence),
        Message::Refused(refusal) => state.refused(refusal),
        Message::Silent(why) => state.silent(why),
        Message::End(result) => return Some(result),
    }
    None
}

/// Gives the terminal back.
struct Screen(DefaultTerminal);

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Shows the state until somebody ends it.
pub fn show(paths: &Paths, interval: Duration) -> Result<()> {
    let (sender, messages) = channel();
    // Before the terminal is taken: a signal that nobody listens for ends the process at once.
    let signals = Signals::listen()?;
    teller(&sender, |sender| signals.tell(sender));
    teller(&sender, keys);
    look(paths, interval, &sender);
    drop(sender);
    show_until_end(&messages)
}

fn show_until_end(messages: &Receiver<Message>) -> Result<()> {
    // Gives the terminal back when anything panics, too.
    let terminal = ratatui::try_init().context("take the terminal")?;
    let mut screen = Screen(terminal);
    let mut state = State::new();
    loop {
        let drawn = screen.0.draw(|frame| draw(frame, &state));
        drawn.context("draw on the terminal")?;
        let Ok(message) = messages.recv() else {
            bail!("nothing tells what to show any more");
        };
        // Whatever has come meanwhile is one frame.
        for message in std::iter::once(message).chain(messages.try_iter()) {
            if let Some(end) = take(&mut state, message) {
                return end;
            }
        }
    }
}

/// Starts all that tells something of the node.
pub fn start(paths: &Paths, interval: Duration) -> Receiver<Message> {
    let (sender, messages) = channel();
    look(paths, interval, &sender);
    messages
}

fn look(paths: &Paths, interval: Duration, sender: &Sender<Message>) {
    for tell in [samples, presences, refusals] {
        let paths = paths.clone();
        teller(sender, move |sender| tell(&paths, interval, sender));
    }
}

/// A thread that tells something. If it panics, that is the end.
fn teller(sender: &Sender<Message>, tell: impl FnOnce(&Sender<Message>) + Send + 'static) {
    let sender = LastWord(sender.clone());
    thread::spawn(move || tell(&sender.0));
}

/// Tells of a thread's panic, since others go on.
struct LastWord(Sender<Message>);

impl Drop for LastWord {
    fn drop(&mut self) {
        if thread::panicking() {
            send(&self.0, Message::End(Err(anyhow!("a thread panicked"))));
        }
    }
}

/// Sends until nobody listens: then this is `false`.
fn send(sender: &Sender<Message>, message: Message) -> bool {
    sender.send(message).is_ok()
}

fn samples(paths: &Paths, interval: Duration, sender: &Sender<Message>) {
    while send(sender, Message::Sample(read::sample(&paths.bpffs))) {
        thread::sleep(interval);
    }
}

fn presences(paths: &Paths, _: Duration, sender: &Sender<Message>) {
    while send(sender, Message::Presence(read::presence(paths))) {
        thread::sleep(PRESENCE);
    }
}

fn refusals(paths: &Paths, _: Duration, sender: &Sender<Message>) {
    loop {
        let followed =
            read::follow_refusals(paths, |line| send(sender, Message::Refused(line.into())));
        let why = followed
            .err()
            .map_or_else(String::new, |why| format!("{why:#}"));
        if !send(sender, Message::Silent(why)) {
            return;
        }
        thread::sleep(AGAIN);
    }
}

fn keys(sender: &Sender<Message>) {
    loop {
        let message = match event::read() {
            Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => Message::Key(key),
            Ok(Event::Resize(..)) => Message::Resized,
            Ok(_) => continue,
            Err(error) => Message::End(Err(error).context("read keys from the terminal")),
        };
        let is_end = matches!(message, Message::End(_));
        if !send(sender, message) || is_end {
            return;
        }
    }
}

/// The signals that end programs, from now on.
struct Signals {
    runtime: Runtime,
    all: [Signal; 3],
}

impl Signals {
    fn listen() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the asynchronous runtime")?;
        let inside = runtime.enter();
        let all = [
            signal(SignalKind::terminate()).context("listen for SIGTERM")?,
            signal(SignalKind::interrupt()).context("listen for SIGINT")?,
            signal(SignalKind::hangup()).context("listen for SIGHUP")?,
        ];
        drop(inside);
        Ok(Self { runtime, all })
    }

    fn tell(self, sender: &Sender<Message>) {
        let [mut terminate, mut interrupt, mut hang_up] = self.all;
        self.runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hang_up.recv() => {}
            }
        });
        send(sender, Message::End(Ok(())));
    }
}

#[cfg(test)]
mod tests;
