use super::super::conversations::tests::{flow, socket};
use super::*;

const SECOND: Nanos = 1_000_000_000;

fn sample(second: u64, conversations: &[Conversation]) -> Sample {
    Sample {
        counted: Counted {
            at: second * SECOND,
            counters: vec![second * 10],
        },
        conversations: conversations.to_vec(),
    }
}

fn press(state: &mut State, keys: &str) {
    for key in keys.chars() {
        let code = match key {
            '\t' => KeyCode::Tab,
            '\n' => KeyCode::Enter,
            '↓' => KeyCode::Down,
            '↑' => KeyCode::Up,
            '⌫' => KeyCode::Backspace,
            key => KeyCode::Char(key),
        };
        assert_eq!(state.press(code.into()), Asked::Nothing, "{key}");
    }
}

fn refusal(text: &str) -> Refusal {
    Refusal {
        time: "10:31:07".to_owned(),
        text: text.to_owned(),
    }
}

fn names(state: &State) -> Vec<&str> {
    let rows = state.services().into_iter();
    rows.map(|row| &*row.service).collect()
}

fn clients(state: &State) -> Vec<String> {
    let rows = state.conversations().into_iter();
    rows.map(Conversation::client_text).collect()
}

/// `b` has most, `c` what is new.
fn busy() -> State {
    let old = [
        flow("10.0.0.1:1", "shop/a", "ESTABLISHED", 50),
        flow("10.0.0.2:1", "shop/b", "ESTABLISHED", 3),
        socket(9, "shop/b", 40),
    ];
    let new = flow("10.0.0.0:1", "shop/c", "OPENING", 7);
    let mut state = State::new();
    state.see(sample(1, &old));
    state.see(sample(2, &[&old[..], &[new]].concat()));
    state
}

#[test]
fn keys_turn_pages_and_wrap_around() {
    let mut state = State::new();
    for tab in [Tab::Flows, Tab::Drops, Tab::Services] {
        press(&mut state, "\t");
        assert_eq!(state.tab, tab);
    }
    state.press(KeyCode::BackTab.into());
    assert_eq!(state.tab, Tab::Drops);
    state.press(KeyCode::Left.into());
    assert_eq!(state.tab, Tab::Flows);
    press(&mut state, "3");
    assert_eq!(state.tab, Tab::Drops);
}

#[test]
fn every_way_out_ends_it_and_a_filter_may_have_a_q() {
    let mut state = State::new();
    assert_eq!(state.press(KeyCode::Char('q').into()), Asked::End);
    assert_eq!(state.press(KeyCode::Esc.into()), Asked::End);
    press(&mut state, "/sq");
    assert_eq!(state.filter, "sq");
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(state.press(interrupt), Asked::End, "even while writing");
}

#[test]
fn services_are_sorted_by_what_is_new_then_by_what_there_is_then_by_name() {
    let mut state = busy();
    assert_eq!(names(&state), ["shop/c", "shop/b", "shop/a"]);
    press(&mut state, "s");
    assert_eq!(state.order(), "entries");
    assert_eq!(names(&state), ["shop/b", "shop/a", "shop/c"]);
    press(&mut state, "s");
    assert_eq!(names(&state), ["shop/a", "shop/b", "shop/c"]);
    press(&mut state, "s");
    assert_eq!(state.order(), "new");
}

#[test]
fn flows_are_sorted_by_when_they_came_then_by_use_then_by_client() {
    let mut state = busy();
    press(&mut state, "\t");
    let (a, b, c) = ("10.0.0.1:1", "10.0.0.2:1", "10.0.0.0:1");
    assert_eq!(clients(&state), [c, b, "socket 9", a]);
    press(&mut state, "s");
    assert_eq!(clients(&state), [b, c, "socket 9", a]);
    press(&mut state, "s");
    assert_eq!(clients(&state), [c, a, b, "socket 9"]);
}

#[test]
fn a_filter_takes_what_has_it_anywhere_and_escape_forgets_it() {
    let mut state = busy();
    press(&mut state, "/SHOP/B⌫a\n");
    assert!(!state.is_writing);
    assert_eq!(names(&state), ["shop/a"]);
    press(&mut state, "\t");
    assert_eq!(clients(&state), ["10.0.0.1:1"]);
    press(&mut state, "/⌫⌫⌫⌫⌫⌫opening\n");
    assert_eq!(clients(&state), ["10.0.0.0:1"], "by its state");
    state.refused(refusal("dropped egress shop/a-1"));
    press(&mut state, "\t");
    assert!(state.refusals().is_empty());
    press(&mut state, "/");
    state.press(KeyCode::Esc.into());
    assert_eq!(state.filter, "");
    assert_eq!(state.refusals().len(), 1);
}

#[test]
fn nothing_moves_in_a_pause_and_nothing_is_lost_by_it() {
    let mut state = busy();
    state.refused(refusal("first"));
    press(&mut state, "p");
    state.refused(refusal("second"));
    state.refused(refusal("third"));
    state.see(sample(3, &[]));
    assert_eq!(names(&state).len(), 3);
    assert_eq!(state.refusals().len(), 1);
    press(&mut state, "p");
    let texts: Vec<_> = state.refusals().iter().map(|it| &*it.text).collect();
    assert_eq!(texts, ["third", "second", "first"]);
    state.see(sample(12, &[]));
    assert!(names(&state).is_empty());
    let passed = state.rates.as_ref().unwrap().all();
    assert_eq!(passed, 10.0, "a hundred packets in ten seconds");
}

#[test]
fn one_scrolls_no_further_than_the_last_row() {
    let mut state = busy();
    press(&mut state, "↓↓↓↓↓");
    assert_eq!(state.scroll, 2);
    press(&mut state, "↑");
    assert_eq!(state.scroll, 1);
    state.press(KeyCode::End.into());
    assert_eq!(state.scroll, 2);
    press(&mut state, "\t");
    assert_eq!(state.scroll, 0, "another page begins at its top");
}

#[test]
fn an_agent_that_comes_again_tells_the_past_once() {
    let mut state = State::new();
    state.refused(refusal("first"));
    state.silent("the agent has ended".to_owned());
    assert!(state.refusals().is_empty());
    state.refused(refusal("first"));
    assert_eq!(state.refusals().len(), 1);
    assert_eq!(state.silence, None);
}

#[test]
fn refused_packets_are_kept_up_to_a_number() {
    let mut state = State::new();
    for number in 0..KEPT + 5 {
        state.refused(refusal(&number.to_string()));
    }
    let all = state.refusals();
    assert_eq!(all.len(), KEPT);
    assert_eq!(all[0].text, (KEPT + 4).to_string());
}

#[test]
fn tables_that_cannot_be_read_are_a_fault_until_they_can() {
    let mut state = busy();
    state.cannot_see("no tables".to_owned());
    assert_eq!(state.fault.as_deref(), Some("no tables"));
    assert_eq!(names(&state).len(), 3, "what was seen last stays");
    state.see(sample(3, &[]));
    assert_eq!(state.fault, None);
}
