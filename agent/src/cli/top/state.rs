//! What `weir top` shows, and what keys do to it: no terminal, table or clock in here.

use std::cmp::Reverse;
use std::collections::VecDeque;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use weir_ebpf::tables::Nanos;

use super::{
    conversations::{Conversation, ServiceRow, Tracked, services},
    rates::{Counted, Rates, rates},
    read::{Presence, Sample},
};
use crate::observe::socket_routes::Line;

/// Refused packets that are kept.
const KEPT: usize = 1_000;

/// A page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tab {
    /// Services by what comes.
    Services,
    /// Conversations, the newest first.
    Flows,
    /// Packets that were refused, the newest first.
    Drops,
}

impl Tab {
    /// All, from left to right.
    pub const ALL: [Self; 3] = [Self::Services, Self::Flows, Self::Drops];

    /// The word at its tab.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Services => "Services",
            Self::Flows => "Flows",
            Self::Drops => "Drops",
        }
    }

    fn moved(self, by: usize) -> Self {
        let here = Self::ALL.iter().position(|tab| *tab == self).unwrap_or(0);
        Self::ALL[(here + by) % Self::ALL.len()]
    }
}

/// By what services are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceOrder {
    /// What is opened each second.
    New,
    /// What there is.
    Entries,
    /// The name.
    Name,
}

/// By what conversations are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowOrder {
    /// When they were first seen.
    Newest,
    /// When they were last used.
    Active,
    /// Who opened them.
    Client,
}

/// A refused packet, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `10:31:07`, by universal time; nothing where so many were lost.
    pub time: String,
    /// As `weir flow watch` prints it.
    pub text: String,
}

impl From<Line> for Refusal {
    fn from(line: Line) -> Self {
        match line {
            Line::Lost { lost } => Self {
                time: String::new(),
                text: format!("{lost} events were lost here"),
            },
            Line::Packet(record) => Self {
                // 2026-11-21T10:31:07.123456Z
                time: record.time.get(11..19).unwrap_or_default().to_owned(),
                text: record.to_string(),
            },
        }
    }
}

/// What is shown.
#[derive(Debug)]
pub struct State {
    /// Who keeps the tables, once that was asked.
    pub presence: Option<Presence>,
    /// Why the tables cannot be read.
    pub fault: Option<String>,
    /// Rates of the counters, from the second reading on.
    pub rates: Option<Rates>,
    /// The open page.
    pub tab: Tab,
    /// How services are ordered.
    pub service_order: ServiceOrder,
    /// How conversations are ordered.
    pub flow_order: FlowOrder,
    /// Only rows that have this in them.
    pub filter: String,
    /// The filter is being written.
    pub is_writing: bool,
    /// Nothing moves.
    pub is_paused: bool,
    /// Rows above the first that is shown.
    pub scroll: usize,
    /// Why the agent tells nothing of refused packets; `None`: it does.
    pub silence: Option<String>,
    refusals: VecDeque<Refusal>,
    /// What came while nothing moved.
    waiting: VecDeque<Refusal>,
    services: Vec<ServiceRow>,
    conversations: Vec<Conversation>,
    tracked: Tracked,
    counted: Option<Counted>,
}

/// What a key asks for beyond the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Nothing.
    Nothing,
    /// The end.
    End,
}

impl State {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Self {
            presence: None,
            fault: None,
            rates: None,
            tab: Tab::Services,
            service_order: ServiceOrder::New,
            flow_order: FlowOrder::Newest,
            filter: String::new(),
            is_writing: false,
            is_paused: false,
            scroll: 0,
            silence: None,
            refusals: VecDeque::new(),
            waiting: VecDeque::new(),
            services: Vec::new(),
            conversations: Vec::new(),
            tracked: Tracked::default(),
            counted: None,
        }
    }

    /// Takes in the tables. While nothing moves they are passed by: the next rates are those of
    /// the whole pause.
    pub fn see(&mut self, sample: Sample) {
        self.fault = None;
        if self.is_paused {
            return;
        }
        let Sample {
            counted,
            conversations,
        } = sample;
        let now: Nanos = counted.at;
        self.rates = self.counted.as_ref().map(|before| rates(before, &counted));
        self.counted = Some(counted);
        let new = self.tracked.see(now, &conversations);
        self.services = services(&conversations, new.as_ref());
        self.conversations = conversations;
    }

    /// Takes in that the tables cannot be read.
    pub fn cannot_see(&mut self, fault: String) {
        self.fault = Some(fault);
    }

    /// Takes in what the agent tells of a refused packet.
    pub fn refused(&mut self, refusal: Refusal) {
        self.silence = None;
        let refusals = if self.is_paused {
            &mut self.waiting
        } else {
            &mut self.refusals
        };
        refusals.push_front(refusal);
        refusals.truncate(KEPT);
    }

    /// Takes in that the agent tells nothing. One that comes next tells the past again.
    pub fn silent(&mut self, why: String) {
        self.silence = Some(why);
        self.refusals.clear();
        self.waiting.clear();
    }

    /// Does what a key is for.
    pub fn press(&mut self, key: KeyEvent) -> Asked {
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if is_control => Asked::End,
            code if self.is_writing => {
                self.write(code);
                Asked::Nothing
            }
            KeyCode::Char('q') | KeyCode::Esc => Asked::End,
            code => {
                self.turn(code);
                Asked::Nothing
            }
        }
    }

    fn write(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.is_writing = false,
            KeyCode::Esc => {
                self.is_writing = false;
                self.filter.clear();
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(character) => self.filter.push(character),
            _ => {}
        }
        self.scroll = 0;
    }

    fn turn(&mut self, code: KeyCode) {
        const PAGE: usize = 20;
        match code {
            KeyCode::Tab | KeyCode::Right => self.open(self.tab.moved(1)),
            KeyCode::BackTab | KeyCode::Left => self.open(self.tab.moved(Tab::ALL.len() - 1)),
            KeyCode::Char('1') => self.open(Tab::Services),
            KeyCode::Char('2') => self.open(Tab::Flows),
            KeyCode::Char('3') => self.open(Tab::Drops),
            KeyCode::Down => self.scroll_to(self.scroll.saturating_add(1)),
            KeyCode::Up => self.scroll_to(self.scroll.saturating_sub(1)),
            KeyCode::PageDown => self.scroll_to(self.scroll.saturating_add(PAGE)),
            KeyCode::PageUp => self.scroll_to(self.scroll.saturating_sub(PAGE)),
            KeyCode::Home => self.scroll_to(0),
            KeyCode::End => self.scroll_to(usize::MAX),
            KeyCode::Char('/') => self.is_writing = true,
            KeyCode::Char('s') => self.sort(),
            KeyCode::Char('p') | KeyCode::Char(' ') => self.pause(),
            _ => {}
        }
    }

    fn open(&mut self, tab: Tab) {
        self.tab = tab;
        self.scroll = 0;
    }

    /// No further than the last row.
    fn scroll_to(&mut self, row: usize) {
        let rows = match self.tab {
            Tab::Services => self.services().len(),
            Tab::Flows => self.conversations().len(),
            Tab::Drops => self.refusals().len(),
        };
        self.scroll = row.min(rows.saturating_sub(1));
    }

    fn sort(&mut self) {
        match self.tab {
            Tab::Services => {
                self.service_order = match self.service_order {
                    ServiceOrder::New => ServiceOrder::Entries,
                    ServiceOrder::Entries => ServiceOrder::Name,
                    ServiceOrder::Name => ServiceOrder::New,
                }
            }
            Tab::Flows => {
                self.flow_order = match self.flow_order {
                    FlowOrder::Newest => FlowOrder::Active,
                    FlowOrder::Active => FlowOrder::Client,
                    FlowOrder::Client => FlowOrder::Newest,
                }
            }
            // They come in their order.
            Tab::Drops => {}
        }
        self.scroll = 0;
    }

    fn pause(&mut self) {
        self.is_paused = !self.is_paused;
        if !self.is_paused {
            while let Some(refusal) = self.waiting.pop_back() {
                self.refused(refusal);
            }
        }
    }

    /// In what order the open page is.
    pub const fn order(&self) -> &'static str {
        match (self.tab, self.service_order, self.flow_order) {
            (Tab::Services, ServiceOrder::New, _) => "new",
            (Tab::Services, ServiceOrder::Entries, _) => "entries",
            (Tab::Services, ServiceOrder::Name, _) => "name",
            (Tab::Flows, _, FlowOrder::Newest) | (Tab::Drops, _, _) => "newest",
            (Tab::Flows, _, FlowOrder::Active) => "most active",
            (Tab::Flows, _, FlowOrder::Client) => "client",
        }
    }

    /// The services, filtered and in order.
    pub fn services(&self) -> Vec<&ServiceRow> {
        let mut rows: Vec<&ServiceRow> = self
            .services
            .iter()
            .filter(|row| self.lets_through(&[&row.service, &row.protocol]))
            .collect();
        // They are in the order of their names.
        match self.service_order {
            ServiceOrder::New => rows.sort_by(|a, b| {
                let rate = |row: &ServiceRow| row.new_per_second.unwrap_or(0.0);
                let entries = |row: &ServiceRow| row.flows + row.sockets;
                let busier = rate(b).total_cmp(&rate(a));
                busier.then_with(|| entries(b).cmp(&entries(a)))
            }),
            ServiceOrder::Entries => rows.sort_by_key(|row| Reverse(row.flows + row.sockets)),
            ServiceOrder::Name => {}
        }
        rows
    }

    /// The conversations, filtered and in order.
    pub fn conversations(&self) -> Vec<&Conversation> {
        let is_shown = |row: &&Conversation| {
            self.filter.is_empty()
                || self.lets_through(&[
                    &row.protocol,
                    &row.client_text(),
                    &row.service_text(),
                    &row.address.to_string(),
                    &row.backend.to_string(),
                    row.state.unwrap_or_default(),
                ])
        };
        let mut rows: Vec<&Conversation> = self.conversations.iter().filter(is_shown).collect();
        match self.flow_order {
            FlowOrder::Newest => rows.sort_by_cached_key(|row| {
                let seen = self.tracked.first_seen(&row.key());
                (Reverse(seen), row.idle_seconds, row.key())
            }),
            FlowOrder::Active => rows.sort_by_cached_key(|row| (row.idle_seconds, row.key())),
            FlowOrder::Client => rows.sort_by_cached_key(|row| row.key()),
        }
        rows
    }

    /// The refused packets, filtered, the newest first.
    pub fn refusals(&self) -> Vec<&Refusal> {
        let all = self.refusals.iter();
        all.filter(|row| self.lets_through(&[&row.text])).collect()
    }

    fn lets_through(&self, texts: &[&str]) -> bool {
        let wanted = self.filter.to_lowercase();
        texts
            .iter()
            .any(|text| text.to_lowercase().contains(&wanted))
    }
}

#[cfg(test)]
mod tests;
