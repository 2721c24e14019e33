//! A counter-example as a scenario file, to be put among the others as it is.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use weir_tests::reference::world::World;
use weir_tests::reference::{Answer, Client, manifests};

use super::journey::Connection;
use super::objects;

/// The text of a scenario in which the last of these clusters is asked.
#[must_use]
pub fn scenario(history: &[World], connection: &Connection, expected: &BTreeSet<Answer>) -> String {
    let mut lines = vec!["name: a random cluster whose answer was wrong".to_owned()];
    let mut before: Vec<Value> = Vec::new();
    for (index, world) in history.iter().enumerate() {
        let now = manifests::objects(world);
        if index == 0 {
            lines.push("given:".to_owned());
            lines.extend(now.iter().map(|object| format!("  - {object}")));
            lines.push("steps:".to_owned());
        } else {
            lines.extend(changes(&before, &now));
        }
        before = now;
    }
    lines.extend(question(connection, expected));
    lines.join("\n")
}

fn changes(before: &[Value], now: &[Value]) -> Vec<String> {
    let mut lines = Vec::new();
    let names: BTreeSet<String> = now.iter().map(objects::name).collect();
    let gone: Vec<String> = before
        .iter()
        .map(objects::name)
        .filter(|name| !names.contains(name))
        .collect();
    if !gone.is_empty() {
        lines.push(format!("  - delete: {}", json!(gone)));
    }
    let mut changed = now
        .iter()
        .filter(|object| !before.contains(object))
        .peekable();
    if changed.peek().is_some() {
        lines.push("  - apply:".to_owned());
        lines.extend(changed.map(|object| format!("      - {object}")));
    }
    lines
}

fn question(connection: &Connection, expected: &BTreeSet<Answer>) -> Vec<String> {
    let step = match connection.client {
        Client::Node => {
            let protocol = connection.protocol.to_lowercase();
            let peer = connection.to.to_string();
            let call = json!({"caller": "node", "socket": 1, "protocol": protocol, "peer": peer});
            format!("  - connect: {call}")
        }
        Client::Pod(_) | Client::Outside(_) => {
            let hook = match connection.client {
                Client::Pod(_) => "from_pod",
                Client::Node | Client::Outside(_) => "from_network",
            };
            let packet = connection.first_packet().to_string();
            format!("  - send: {}", json!({"hook": hook, "packet": packet}))
        }
    };
    let mut lines = vec![step];
    // One right answer is enough; the others are for the reader to choose from.
    for (index, answer) in expected.iter().enumerate() {
        let comment = if index == 0 { "" } else { "# or " };
        lines.push(format!("    {comment}expect: {}", outcome(answer)));
    }
    lines
}

fn outcome(answer: &Answer) -> Value {
    let refused = |verdict: &str, reason: &str| json!({"verdict": verdict, "reason": reason});
    match answer {
        // Where it leaves the node, that is the next hook's business.
        Answer::LeftAlone | Answer::UnusedServiceAddress => json!({"verdict": "pass"}),
        Answer::Served(served) => {
            let all: Vec<String> = served.endpoints.keys().map(ToString::to_string).collect();
            json!({"verdict": "translate", "reaches": all})
        }
        Answer::NoEndpoint => refused("reject", "no-backend"),
        Answer::NoSuchPort => refused("reject", "no-such-port"),
        Answer::NoneHere => refused("drop", "no-local-endpoint"),
        Answer::NotInSourceRanges => refused("drop", "source-range"),
    }
}
