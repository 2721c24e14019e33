//! The ratios to *direct* as a drawing: a bar for each variant, grouped by what was done.

use serde_json::Value;
use svg::{
    Document, Node as _,
    node::element::{Group, Line, Rectangle, Text, Title},
};

const WIDTH: f64 = 960.0;
/// Where bars begin; left of it stands what they are of.
const LEFT: f64 = 330.0;
/// Room for the number beside the longest bar.
const RIGHT: f64 = 110.0;
const BAR: f64 = 15.0;
const GAP: f64 = 12.0;
const TOP: f64 = 50.0;
/// The ratio at the right edge, at least.
const LEAST_SCALE: f64 = 1.2;

/// Told apart by those who see few colours, too.
const COLOURS: [&str; 8] = [
    "#0072b2", "#56b4e9", "#009e73", "#cc79a7", "#e69f00", "#d55e00", "#999999", "#f0e442",
];

/// A figure that has a ratio to *direct*.
struct Bar<'a> {
    work: String,
    variant: &'a str,
    median: f64,
    lower: f64,
    upper: f64,
    goal: Option<f64>,
}

/// A drawing of all figures that have a ratio.
pub fn draw(figures: &[Value]) -> String {
    let bars: Vec<Bar<'_>> = figures.iter().filter_map(bar).collect();
    let mut variants: Vec<&str> = Vec::new();
    let mut works: Vec<&str> = Vec::new();
    for bar in &bars {
        if !variants.contains(&bar.variant) {
            variants.push(bar.variant);
        }
        if !works.contains(&bar.work.as_str()) {
            works.push(&bar.work);
        }
    }
    let scale = bars.iter().map(|bar| bar.upper).fold(LEAST_SCALE, f64::max);
    let at = |ratio: f64| LEFT + ratio / scale * (WIDTH - LEFT - RIGHT);
    let mut content = Group::new();
    let mut y = TOP;
    for work in works {
        content.append(text(12.0, y + BAR - 3.0, work));
        for bar in bars.iter().filter(|bar| bar.work == work) {
            let colour = variants.iter().position(|variant| *variant == bar.variant);
            let colour = COLOURS[colour.unwrap_or_default() % COLOURS.len()];
            content.append(one(bar, y, colour, at));
            y += BAR;
        }
        y += GAP;
    }
    let one = Line::new()
        .set("x1", at(1.0))
        .set("x2", at(1.0))
        .set("y1", TOP - 6.0)
        .set("y2", y)
        .set("stroke", "#333333");
    Document::new()
        .set("viewBox", (0.0, 0.0, WIDTH, y + GAP))
        .set("font-family", "sans-serif")
        .set("font-size", 12)
        .add(
            Rectangle::new()
                .set("width", "100%")
                .set("height", "100%")
                .set("fill", "white"),
        )
        .add(legend(&variants))
        .add(content)
        .add(one)
        .add(text(at(1.0) - 18.0, TOP - 10.0, "direct"))
        .to_string()
}

fn bar(figure: &Value) -> Option<Bar<'_>> {
    let ratio = figure["ratio"].as_object()?;
    let number = |name: &str| ratio.get(name)?.as_f64();
    let goal = &figure["goal"];
    Some(Bar {
        work: format!(
            "{}, {}",
            figure["work"].as_str()?,
            figure["world"].as_str()?
        ),
        variant: figure["variant"].as_str()?,
        median: number("median")?,
        lower: number("lower")?,
        upper: number("upper")?,
        goal: (goal["subject"] == "ratio")
            .then(|| goal["limit"].as_f64())
            .flatten(),
    })
}

/// The bar, its quartiles as a line, its goal as a mark, and its number.
fn one(bar: &Bar<'_>, y: f64, colour: &str, at: impl Fn(f64) -> f64) -> Group {
    let middle = y + BAR / 2.0;
    let mut group = Group::new()
        .add(Title::new(bar.variant))
        .add(
            Rectangle::new()
                .set("x", at(0.0))
                .set("y", y + 1.0)
                .set("width", at(bar.median) - at(0.0))
                .set("height", BAR - 2.0)
                .set("fill", colour),
        )
        .add(
            Line::new()
                .set("x1", at(bar.lower))
                .set("x2", at(bar.upper))
                .set("y1", middle)
                .set("y2", middle)
                .set("stroke", "#333333")
                .set("stroke-width", 2),
        )
        .add(text(
            at(bar.upper.max(1.0)) + 6.0,
            y + BAR - 3.0,
            &format!("{:.2}", bar.median),
        ));
    if let Some(goal) = bar.goal {
        group.append(
            Line::new()
                .set("x1", at(goal))
                .set("x2", at(goal))
                .set("y1", y)
                .set("y2", y + BAR)
                .set("stroke", "#c00000")
                .set("stroke-width", 2),
        );
    }
    group
}

fn legend(variants: &[&str]) -> Group {
    let mut group = Group::new();
    let mut x = 12.0;
    for (variant, colour) in variants.iter().zip(COLOURS.iter().cycle()) {
        group.append(
            Rectangle::new()
                .set("x", x)
                .set("y", 10.0)
                .set("width", 12)
                .set("height", 12)
                .set("fill", *colour),
        );
        group.append(text(x + 17.0, 20.0, variant));
        x += 40.0 + 6.8 * f64::from(u16::try_from(variant.chars().count()).unwrap_or(u16::MAX));
    }
    group
}

fn text(x: f64, y: f64, text: &str) -> Text {
    Text::new(text).set("x", x).set("y", y)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_with_a_ratio_has_a_bar_and_others_have_none() {
        let figure = |variant: &str, ratio: Value| {
            serde_json::json!({
                "bench": "packets", "world": "1 service", "variant": variant, "work": "requests",
                "unit": "1/s", "value": {"median": 1.0, "lower": 1.0, "upper": 1.0, "count": 1},
                "ratio": ratio, "goal": {"subject": "ratio", "bound": "at_least", "limit": 0.99},
            })
        };
        let ratio = serde_json::json!({"median": 0.987, "lower": 0.9, "upper": 1.0, "count": 3});
        let drawing = draw(&[figure("weir", ratio), figure("without", Value::Null)]);
        assert!(drawing.contains("requests, 1 service"), "{drawing}");
        assert!(drawing.contains("0.99"), "{drawing}");
        assert!(!drawing.contains("without"), "{drawing}");
    }

    #[test]
    fn what_is_written_is_escaped() {
        let figure = serde_json::json!({
            "world": "a < b & c", "variant": "weir", "work": "requests",
            "ratio": {"median": 1.0, "lower": 1.0, "upper": 1.0, "count": 1},
        });
        let drawing = draw(&[figure]);
        assert!(drawing.contains("a &lt; b &amp; c"), "{drawing}");
    }
}
