//! Figures as a table for people.

use comfy_table::{CellAlignment, Table, presets};

use super::figure::{Bound, Figure, Goal, Subject};
use super::statistics::Summary;

/// One line for each figure.
pub(super) fn of(figures: &[Figure]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["what", "who", "median", "unit", "to direct", "goal", ""]);
    for figure in figures {
        table.add_row([
            figure.work.clone(),
            figure.variant.clone(),
            spread(&figure.value),
            figure.unit.clone(),
            figure.ratio.as_ref().map(spread).unwrap_or_default(),
            figure.goal.map(goal).unwrap_or_default(),
            remarks(figure),
        ]);
    }
    for column in [2, 4, 5] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
}

/// What became of the goal, and what else has to be known.
fn remarks(figure: &Figure) -> String {
    let goal = figure.is_reached().map(|is_reached| match is_reached {
        true => "reached",
        false => "missed",
    });
    let remarks: Vec<&str> = goal.into_iter().chain(figure.note.as_deref()).collect();
    remarks.join("; ")
}

fn spread(summary: &Summary) -> String {
    let Summary {
        median,
        lower,
        upper,
        count,
    } = *summary;
    match count {
        1 => number(median),
        _ => format!("{} [{}, {}]", number(median), number(lower), number(upper)),
    }
}

fn goal(goal: Goal) -> String {
    let sign = match goal.bound {
        Bound::AtLeast => "≥",
        Bound::AtMost => "≤",
    };
    match goal.subject {
        Subject::Value => format!("{sign} {}", number(goal.limit)),
        Subject::Ratio => format!("{sign} {} × direct", number(goal.limit)),
    }
}

/// Three digits that count, and no more zeros than that.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_value_ratio_and_goal() {
        let value = Summary::of(&[11_000.0, 12_000.0, 13_000.0]).unwrap();
        let mut figure = Figure::new("packets", "world", "weir", "connections", "1/s", value)
            .with_goal(Some(Goal::ratio_at_least(0.98)))
            .with_note("no connection tracking");
        figure.ratio = Summary::of(&[0.991]);
        let table = of(&[figure]);
        let line = table.lines().find(|line| line.contains("weir")).unwrap();
        for part in [
            "12000 [11500, 12500]",
            "0.99",
            "≥ 0.98 × direct",
            "reached; no connection tracking",
        ] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
    }

    #[test]
    fn numbers_have_the_digits_that_count() {
        let texts = [12_345.6, 12.34, 0.984, 0.0123, 0.0].map(number);
        assert_eq!(texts, ["12346", "12.3", "0.98", "0.0123", "0.00"]);
    }
}
