//! A table on the terminal, expected against seen.
//!
//! ```text
//!           TCP 80       TCP 81       n: the node, o: somebody outside
//!           x  y  z  no  x  y  z  no
//!           abcabcabc    abcabcabc
//!   x/a     ...XXX.....  ...........  .  passes, as it must        X  is dropped, as it must be
//!   x/b     ...!XX...X.  .....?.....  !  passes, and must not      ?  does not pass, and must
//! ```

use std::io::{IsTerminal as _, Write as _};

use owo_colors::{OwoColorize as _, Style};
use weir_tests::bed::Family;
use weir_tests::testpod::protocol::Failure;

use crate::cluster::{NAMES, NAMESPACES};
use crate::table::{Cell, Party, Table, columns, family_name};

/// What a question came to: the name of who answered, or why nobody did.
pub type Reply = Result<String, Failure>;

/// What a cell came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passes,
    Dropped,
    Leaks,
    Fails,
}

impl Outcome {
    pub fn of(cell: Cell, is_allowed: bool, reply: &Reply) -> Self {
        match (is_allowed, reply) {
            (true, Ok(server)) if *server == cell.server.process() => Self::Passes,
            (true, Ok(_) | Err(_)) => Self::Fails,
            // Silence is all that one who is refused gets.
            (false, Err(Failure::TimedOut)) => Self::Dropped,
            (false, Ok(_) | Err(_)) => Self::Leaks,
        }
    }

    pub fn is_right(self) -> bool {
        match self {
            Self::Passes | Self::Dropped => true,
            Self::Leaks | Self::Fails => false,
        }
    }

    const fn sign(self) -> char {
        match self {
            Self::Passes => '.',
            Self::Dropped => 'X',
            Self::Leaks => '!',
            Self::Fails => '?',
        }
    }

    fn style(self) -> Style {
        match self {
            Self::Passes => Style::new().green(),
            Self::Dropped => Style::new().blue(),
            Self::Leaks | Self::Fails => Style::new().black().on_red(),
        }
    }
}

/// The cells that came out wrong, each in a line.
pub fn differences(expected: &Table<bool>, seen: &Table<Reply>) -> impl Iterator<Item = String> {
    Cell::all().filter_map(|cell| {
        let (is_allowed, reply) = (*expected.get(cell), seen.get(cell));
        if Outcome::of(cell, is_allowed, reply).is_right() {
            return None;
        }
        let must = if is_allowed { "pass" } else { "be dropped" };
        Some(match reply {
            Ok(server) => format!("{cell} must {must}: {server} answered"),
            Err(failure) => format!("{cell} must {must}: {failure}"),
        })
    })
}

/// Prints a table; once for both families, where they do not differ.
pub fn show(title: &str, expected: &Table<bool>, seen: &Table<Reply>) {
    let outcome = |cell| Outcome::of(cell, *expected.get(cell), seen.get(cell));
    let of_family = |family| -> Vec<Outcome> {
        let cells = Cell::all().filter(|cell| cell.family == family);
        cells.map(outcome).collect()
    };
    let mut out = std::io::stdout().lock();
    let is_coloured = out.is_terminal();
    let mut text = String::new();
    if of_family(Family::V4) == of_family(Family::V6) {
        text += &format!("\n{title}, IPv4 and IPv6\n{}", head());
        text += &rows(Family::V4, &outcome, is_coloured);
    } else {
        for family in Family::ALL {
            text += &format!("\n{title}, {}\n{}", family_name(family), head());
            text += &rows(family, &outcome, is_coloured);
        }
    }
    // A result that cannot be shown is still a result.
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

fn head() -> String {
    let groups = NAMESPACES.map(|namespace| format!("{namespace:<width$}", width = NAMES.len()));
    let groups = groups.concat() + "no";
    let names = NAMES.concat().repeat(NAMESPACES.len());
    let line = |cell: &dyn Fn(String) -> String| {
        let cells = columns().map(|(carrier, port)| cell(format!("{} {port}", carrier.name())));
        format!("          {}\n", cells.collect::<Vec<_>>().join("  "))
    };
    let width = Party::COUNT;
    line(&|column| format!("{column:<width$}"))
        + &line(&|_| groups.clone())
        + &line(&|_| format!("{names:<width$}"))
}

fn rows(family: Family, outcome: &dyn Fn(Cell) -> Outcome, is_coloured: bool) -> String {
    let mut text = String::new();
    for client in Party::all() {
        text += &format!("  {:<8}", client.name());
        for (index, (carrier, port)) in columns().enumerate() {
            if index > 0 {
                text += "  ";
            }
            for server in Party::all() {
                let outcome = outcome(Cell {
                    family,
                    carrier,
                    port,
                    client,
                    server,
                });
                if is_coloured {
                    text += &outcome.sign().style(outcome.style()).to_string();
                } else {
                    text.push(outcome.sign());
                }
            }
        }
        text.push('\n');
    }
    text
}
