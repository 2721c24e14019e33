use weir_ebpf::verdict::{COUNTERS as ALL_COUNTERS, DropReason, Verdict, counter};

use super::super::{
    conversations::tests::{flow, socket},
    rates::Counted,
    read::{Presence, Sample},
};
use super::*;

fn sample(second: u64, refused: u64, conversations: Vec<Conversation>) -> Sample {
    let mut counters = vec![0; ALL_COUNTERS as usize];
    let of = |verdict| counter(Hook::FromPod, verdict) as usize;
    counters[of(Verdict::Pass)] = second * 1_200;
    counters[of(Verdict::Drop(DropReason::EgressPolicy))] = refused;
    Sample {
        counted: Counted {
            at: second * 1_000_000_000,
            counters,
        },
        conversations,
    }
}

/// Two services that are talked to, two packets refused.
fn state() -> State {
    let old = flow("10.200.0.9:4711", "shop/cart", "ESTABLISHED", 65);
    let new = socket(77, "shop/pay", 0);
    let mut state = State::new();
    state.presence = Some(Presence {
        node: Some("node-1".to_owned()),
        agent: Some("agent 0.1.0 runs (pid 4711)".to_owned()),
    });
    state.see(sample(1, 10, vec![old.clone()]));
    state.see(sample(2, 14, vec![old, new]));
    for number in 1..3 {
        state.refused(Refusal {
            time: format!("10:31:0{number}"),
            text: format!("dropped egress shop/cart-{number} → 10.200.3.7:5432 TCP (db/pg-0)"),
        });
    }
    state
}

fn screen(state: &State, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let drawn = terminal.draw(|frame| draw(frame, state)).unwrap();
    plain(drawn.buffer).lines().map(str::to_owned).collect()
}

/// The words of a line.
fn words(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn says(lines: &[String], sentence: &str) {
    assert!(
        lines.iter().any(|line| words(line).contains(sentence)),
        "{sentence:?} is not in:\n{}",
        lines.join("\n")
    );
}

#[test]
fn the_screen_has_its_parts_from_top_to_bottom() {
    let lines = screen(&state(), 120, 16);
    let seen: Vec<String> = lines.iter().map(|line| words(line)).collect();
    assert_eq!(
        seen,
        [
            "weir top node node-1 agent 0.1.0 runs (pid 4711) 1.2k packets/s 4.0 refused/s",
            "",
            "HOOK PASSED/S TRANSLATED/S REJECTED/S DROPPED/S REFUSED/S IN ALL WHY",
            "from_pod 1.2k 0 0 4.0 4.0 14 egress_policy at from_pod",
            "to_pod 0 0 0 0",
            "socket 0 0 0 0",
            "from_network 0 0 0 0",
            "to_network 0 0 0 0",
            "",
            "Services │ Flows │ Drops",
            "SERVICE PROTOCOL NEW/S FLOWS OPENING SOCKETS BACKENDS IDLE",
            "shop/pay TCP 1.0 0 0 1 1 0s",
            "shop/cart TCP 0 1 0 0 1 1m05s",
            "",
            "",
            "q quit tab page ↑↓ scroll p pause s sort / filter order: new",
        ]
    );
}

#[test]
fn flows_and_drops_have_pages_of_their_own() {
    let mut state = state();
    state.tab = Tab::Flows;
    let lines = screen(&state, 140, 20);
    let pay = "TCP socket 77 shop/pay 10.32.0.140:80 10.200.0.2:8080 - 0s";
    let cart = "TCP 10.200.0.9:4711 shop/cart 10.32.0.140:80 10.200.0.2:8080 ESTABLISHED 1m05s";
    assert_eq!([words(&lines[11]), words(&lines[12])], [pay, cart]);
    state.tab = Tab::Drops;
    let lines = screen(&state, 140, 20);
    assert!(lines[11].starts_with("10:31:02 dropped egress shop/cart-2 → "));
    assert!(lines[12].starts_with("10:31:01 dropped egress shop/cart-1 → "));
}

#[test]
fn a_page_is_scrolled_under_its_header() {
    let mut state = state();
    state.tab = Tab::Drops;
    state.scroll = 1;
    let lines = screen(&state, 140, 20);
    assert_eq!(words(&lines[10]), "TIME WHAT");
    assert!(lines[11].starts_with("10:31:01"), "{}", lines[11]);
    assert_eq!(lines[12], "");
}

#[test]
fn without_an_agent_the_drops_say_who_would_tell_them() {
    let mut state = state();
    state.presence = Some(Presence {
        node: None,
        agent: None,
    });
    state.silent("no agent answers at /run/weir/weir.sock".to_owned());
    state.tab = Tab::Drops;
    let lines = screen(&state, 160, 20);
    says(&lines, "weir top no agent runs 1.2k packets/s");
    says(
        &lines,
        "which packets are refused only the agent tells: no agent answers at /run/weir/weir.sock.",
    );
}

#[test]
fn before_the_second_reading_no_rate_is_claimed() {
    let mut state = State::new();
    state.see(sample(1, 10, vec![socket(1, "shop/pay", 0)]));
    let lines = screen(&state, 120, 16);
    assert_eq!(words(&lines[0]), "weir top");
    says(&lines, "from_pod - - - -");
    says(&lines, "shop/pay TCP - 0 0 1 1 0s");
}

#[test]
fn the_last_line_shows_the_filter_while_it_is_written_and_after() {
    let mut state = state();
    state.filter = "pay".to_owned();
    state.is_writing = true;
    let lines = screen(&state, 120, 16);
    assert_eq!(words(&lines[15]), "/pay_ enter: keep esc: forget");
    state.is_writing = false;
    let lines = screen(&state, 120, 16);
    assert!(lines[15].ends_with("only: pay"), "{}", lines[15]);
    assert!(lines.iter().all(|line| !line.contains("shop/cart")));
}

#[test]
fn a_pause_and_a_fault_are_said_at_the_top() {
    let mut state = state();
    state.is_paused = true;
    state.cannot_see("no tables at /bpf/weir/v4".to_owned());
    let lines = screen(&state, 160, 16);
    assert!(
        lines[0].ends_with("  paused  no tables at /bpf/weir/v4"),
        "{}",
        lines[0]
    );
}

#[test]
fn a_screen_of_any_size_is_drawn() {
    let state = state();
    for (width, height) in [(1, 1), (10, 3), (40, 8), (80, 24), (400, 200)] {
        assert!(screen(&state, width, height).len() <= usize::from(height));
    }
}

#[test]
fn as_text_every_page_is_there() {
    let text = text(&state());
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for sentence in [
        "weir top node node-1 agent 0.1.0 runs (pid 4711)",
        "from_pod 1.2k 0 0 4.0 4.0 14 egress_policy at from_pod",
        "shop/pay TCP 1.0 0 0 1 1 0s",
        "TCP 10.200.0.9:4711 shop/cart",
        "10:31:02 dropped egress shop/cart-2 → 10.200.3.7:5432 TCP (db/pg-0)",
    ] {
        says(&lines, sentence);
    }
    assert!(!text.contains('\u{1b}'), "no colours");
}

#[test]
fn of_a_busy_node_each_page_as_text_has_its_first_rows() {
    let mut busy = State::new();
    let all = (0..100).map(|cookie| socket(cookie, &format!("shop/s{cookie:02}"), 0));
    busy.see(sample(1, 0, all.collect()));
    let text = text(&busy);
    let services = text.lines().filter(|line| line.starts_with("shop/s"));
    assert_eq!(services.count(), TEXT_ROWS);
    assert!(text.contains("nothing has been refused since the agent started"));
}
