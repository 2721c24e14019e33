//! How `weir top` looks: a [`State`] on a frame of any size, and as text.

use ratatui::{
    Frame, Terminal,
    backend::TestBackend,
    buffer::Buffer,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Cell, Paragraph, Row, Table, Tabs},
};
use weir_ebpf::verdict::Hook;

use super::{
    conversations::{Conversation, ServiceRow},
    rates::{HookRate, Rates, rate_text},
    state::{Refusal, State, Tab},
};
use crate::cli::output::duration_text;

/// Lines of the counters: a header and one for each hook.
const COUNTERS: u16 = 6;
/// Columns of a frame that is printed as text.
const TEXT_WIDTH: u16 = 140;
/// Rows of each page that is printed as text.
const TEXT_ROWS: usize = 20;

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const GOOD: Style = Style::new().fg(Color::Green);
const BAD: Style = Style::new().fg(Color::Red);

/// Draws the whole screen.
pub fn draw(frame: &mut Frame<'_>, state: &State) {
    let areas = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(COUNTERS),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(1),
    ]);
    let [head, _, counters, _, tabs, body, foot] = areas.areas(frame.area());
    frame.render_widget(headline(state), head);
    draw_counters(frame, counters, state.rates.as_ref());
    let open = Tab::ALL.iter().position(|tab| *tab == state.tab);
    let titles = Tab::ALL.map(Tab::title);
    let bar = Tabs::new(titles)
        .select(open)
        .highlight_style(BOLD.add_modifier(Modifier::REVERSED));
    frame.render_widget(bar, tabs);
    draw_page(frame, body, state, state.tab, state.scroll);
    frame.render_widget(footline(state), foot);
}

/// Every page at once, as text without colours.
pub fn text(state: &State) -> String {
    let rows = |rows: usize| u16::try_from(rows.clamp(1, TEXT_ROWS)).unwrap_or(u16::MAX);
    let pages = [
        (Tab::Services, rows(state.services().len())),
        (Tab::Flows, rows(state.conversations().len())),
        (Tab::Drops, rows(state.refusals().len())),
    ];
    // A blank line, a title and a header above each.
    let height = pages.iter().map(|(_, rows)| rows + 3).sum::<u16>();
    let backend = TestBackend::new(TEXT_WIDTH, 2 + COUNTERS + height);
    let Ok(mut terminal) = Terminal::new(backend);
    let drawn = terminal.draw(|frame| {
        let mut areas = Layout::vertical([
            Constraint::Length(2),
            Constraint::Length(COUNTERS),
            Constraint::Fill(1),
        ])
        .areas::<3>(frame.area());
        frame.render_widget(headline(state), areas[0]);
        draw_counters(frame, areas[1], state.rates.as_ref());
        for (tab, rows) in pages {
            let [_, title, page, rest] = Layout::vertical([
                Constraint::Length(1),
                Constraint::Length(1),
                Constraint::Length(rows + 1),
                Constraint::Fill(1),
            ])
            .areas(areas[2]);
            frame.render_widget(Line::styled(tab.title(), BOLD), title);
            draw_page(frame, page, state, tab, 0);
            areas[2] = rest;
        }
    });
    let Ok(drawn) = drawn;
    plain(drawn.buffer)
}

/// What a buffer shows, line by line, without blanks at their ends.
fn plain(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width).max(1);
    let lines = buffer.content.chunks(width).map(|cells| {
        let line: String = cells.iter().map(ratatui::buffer::Cell::symbol).collect();
        line.trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn headline(state: &State) -> Line<'static> {
    let mut spans = vec![Span::styled("weir top", BOLD)];
    match &state.presence {
        None => {}
        Some(presence) => {
            if let Some(node) = &presence.node {
                spans.push(Span::raw(format!("  node {node}")));
            }
            spans.push(match &presence.agent {
                Some(agent) => Span::styled(format!("  {agent}"), GOOD),
                None => Span::styled("  no agent runs", BAD),
            });
        }
    }
    if let Some(rates) = &state.rates {
        let (all, refused) = (rate_text(rates.all()), rate_text(rates.refused()));
        spans.push(Span::raw(format!("  {all} packets/s")));
        let style = if rates.refused() > 0.0 { BAD } else { DIM };
        spans.push(Span::styled(format!("  {refused} refused/s"), style));
        if rates.lost > 0.0 {
            let lost = rate_text(rates.lost);
            spans.push(Span::styled(format!("  {lost} events lost/s"), BAD));
        }
    }
    if state.is_paused {
        spans.push(Span::styled("  paused", BOLD));
    }
    if let Some(fault) = &state.fault {
        spans.push(Span::styled(format!("  {fault}"), BAD));
    }
    Line::from(spans)
}

fn footline(state: &State) -> Line<'static> {
    if state.is_writing {
        return Line::from(vec![
            Span::styled(format!("/{}_", state.filter), BOLD),
            Span::styled("  enter: keep  esc: forget", DIM),
        ]);
    }
    let keys = "q quit  tab page  ↑↓ scroll  p pause  s sort  / filter";
    let mut spans = vec![Span::styled(
        format!("{keys}  order: {}", state.order()),
        DIM,
    )];
    if !state.filter.is_empty() {
        spans.push(Span::styled(format!("  only: {}", state.filter), BOLD));
    }
    Line::from(spans)
}

/// Rates by hook, and beside them what is refused and why.
fn draw_counters(frame: &mut Frame<'_>, area: Rect, rates: Option<&Rates>) {
    let [left, right] =
        Layout::horizontal([Constraint::Length(58), Constraint::Fill(1)]).areas(area);
    let header = Row::new([
        "HOOK",
        "PASSED/S",
        "TRANSLATED/S",
        "REJECTED/S",
        "DROPPED/S",
    ]);
    let rows = Hook::ALL.map(|hook| {
        let rate = rates.and_then(|rates| rates.hooks.get(&hook));
        let text = |of: &dyn Fn(&HookRate) -> f64| {
            rate.map_or_else(|| "-".to_owned(), |rate| rate_text(of(rate)))
        };
        let is_refused = rate.is_some_and(|rate| rate.refused() > 0.0);
        Row::new([
            hook.name().to_owned(),
            text(&|rate| rate.passed),
            text(&|rate| rate.translated),
            text(&|rate| rate.rejected),
            text(&|rate| rate.dropped),
        ])
        .style(if is_refused { BAD } else { Style::new() })
    });
    let widths = [12, 9, 13, 11, 10].map(Constraint::Length);
    frame.render_widget(Table::new(rows, widths).header(header.style(DIM)), left);

    let reasons = rates.map_or(&[][..], |rates| &rates.reasons);
    let header = Row::new(["REFUSED/S", "IN ALL", "WHY"]);
    let rows = reasons.iter().map(|reason| {
        Row::new([
            rate_text(reason.per_second),
            reason.total.to_string(),
            format!("{} at {}", reason.reason, reason.hook.name()),
        ])
        .style(if reason.per_second > 0.0 {
            BAD
        } else {
            Style::new()
        })
    });
    let widths = [
        Constraint::Length(10),
        Constraint::Length(10),
        Constraint::Fill(1),
    ];
    frame.render_widget(Table::new(rows, widths).header(header.style(DIM)), right);
}

fn draw_page(frame: &mut Frame<'_>, area: Rect, state: &State, tab: Tab, scroll: usize) {
    match tab {
        Tab::Services => {
            let rows = state.services();
            let header = [
                "SERVICE", "PROTOCOL", "NEW/S", "FLOWS", "OPENING", "SOCKETS", "BACKENDS", "IDLE",
            ];
            let widths = [
                Constraint::Fill(1),
                Constraint::Length(8),
                Constraint::Length(7),
                Constraint::Length(7),
                Constraint::Length(7),
                Constraint::Length(7),
                Constraint::Length(8),
                Constraint::Length(9),
            ];
            let none = "nobody talks to a service";
            page(
                frame,
                area,
                (header, widths),
                &rows,
                scroll,
                none,
                service_row,
            );
        }
        Tab::Flows => {
            let rows = state.conversations();
            let header = [
                "PROTOCOL", "CLIENT", "SERVICE", "ADDRESS", "BACKEND", "STATE", "IDLE",
            ];
            let widths = [
                Constraint::Length(8),
                Constraint::Fill(2),
                Constraint::Fill(3),
                Constraint::Fill(2),
                Constraint::Fill(2),
                Constraint::Length(11),
                Constraint::Length(9),
            ];
            let none = "nobody talks to a service";
            page(frame, area, (header, widths), &rows, scroll, none, flow_row);
        }
        Tab::Drops => {
            let rows = state.refusals();
            let none = match &state.silence {
                None => "nothing has been refused since the agent started".to_owned(),
                Some(why) => format!(
                    "which packets are refused only the agent tells: {why}. Their number and \
                     reasons stand above"
                ),
            };
            let layout = (
                ["TIME", "WHAT"],
                [Constraint::Length(8), Constraint::Fill(1)],
            );
            page(frame, area, layout, &rows, scroll, &none, refusal_row);
        }
    }
}

/// The rows from one on, under a header; or the sentence that says that there are none.
fn page<'row, T, const N: usize>(
    frame: &mut Frame<'_>,
    area: Rect,
    (header, widths): ([&'static str; N], [Constraint; N]),
    rows: &[&'row T],
    scroll: usize,
    none: &str,
    row: impl Fn(&'row T) -> Row<'row>,
) {
    let [head, body] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
    let header = Table::new([Row::new(header)], widths).style(DIM);
    frame.render_widget(header, head);
    if rows.is_empty() {
        frame.render_widget(Paragraph::new(none.to_owned()).style(DIM), body);
        return;
    }
    let shown = rows.iter().skip(scroll).take(usize::from(body.height));
    let table = Table::new(shown.map(|one| row(one)), widths);
    frame.render_widget(table, body);
}

fn service_row(service: &ServiceRow) -> Row<'_> {
    let rate = service.new_per_second;
    Row::new([
        service.service.clone(),
        service.protocol.clone(),
        rate.map_or_else(|| "-".to_owned(), rate_text),
        service.flows.to_string(),
        service.opening.to_string(),
        service.sockets.to_string(),
        service.backends.to_string(),
        duration_text(service.idle_seconds),
    ])
}

fn flow_row(conversation: &Conversation) -> Row<'_> {
    Row::new([
        conversation.protocol.clone(),
        conversation.client_text(),
        conversation.service_text(),
        conversation.address.to_string(),
        conversation.backend.to_string(),
        conversation.state.unwrap_or("-").to_owned(),
        duration_text(conversation.idle_seconds),
    ])
}

fn refusal_row(refusal: &Refusal) -> Row<'_> {
    Row::new([
        Cell::from(Span::styled(refusal.time.clone(), DIM)),
        Cell::from(refusal.text.clone()),
    ])
}

#[cfg(test)]
mod tests;
