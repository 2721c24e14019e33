//! The ratios to *direct* as a drawing: a bar for each contender, grouped by what was done.
//!
//! Drawn is what is the better the longer the bar: work for a second of processor time, and between two
//! processors work by the clock. What else has a ratio (latencies, cycles) is in the tables.

use serde_json::Value;
use svg::{
    Document, Node as _,
    node::element::{Group, Line, Rectangle, Text, Title},
};

const WIDTH: f64 = 960.0;
/// Where bars begin; left of it stands whose they are.
const LEFT: f64 = 330.0;
/// Room for the number beside the longest bar.
const RIGHT: f64 = 110.0;
const BAR: f64 = 15.0;
const HEADING: f64 = 20.0;
const GAP: f64 = 12.0;
const TOP: f64 = 36.0;
/// The ratio at the right edge, at least.
const LEAST_SCALE: f64 = 1.2;

/// Told apart by those who see few colours, too.
const COLOURS: [&str; 8] = [
    "#0072b2", "#56b4e9", "#009e73", "#cc79a7", "#e69f00", "#d55e00", "#999999", "#f0e442",
];
/// That of what is hoped for.
const GOAL: &str = "#c00000";
/// How strong the colour is without policies, with some, with many.
const STRENGTHS: [f64; 3] = [1.0, 0.7, 0.45];

/// A figure that is drawn.
struct Bar<'a> {
    work: String,
    variant: &'a str,
    median: f64,
    lower: f64,
    upper: f64,
    goal: Option<f64>,
}

/// A drawing of all figures that have a ratio of this kind.
pub fn draw(figures: &[Value]) -> String {
    let bars: Vec<Bar<'_>> = figures.iter().filter_map(bar).collect();
    let mut families: Vec<&str> = Vec::new();
    let mut works: Vec<&str> = Vec::new();
    for bar in &bars {
        let (family, _) = family(bar.variant);
        if !families.contains(&family) {
            families.push(family);
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
        y += HEADING;
        content.append(text(12.0, y - 6.0, work).set("font-weight", "bold"));
        let mut policies: Vec<&str> = Vec::new();
        for bar in bars.iter().filter(|bar| bar.work == work) {
            let (family, with) = family(bar.variant);
            let colour = families.iter().position(|known| *known == family);
            let colour = COLOURS[colour.unwrap_or_default() % COLOURS.len()];
            if !policies.contains(&with) {
                policies.push(with);
            }
            let place = policies.iter().position(|known| *known == with);
            let strength = STRENGTHS[place.unwrap_or_default().min(STRENGTHS.len() - 1)];
            content.append(one(bar, y, (colour, strength), at));
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
        .add(content)
        .add(one)
        .add(text(at(1.0), TOP - 12.0, "direct = 1").set("text-anchor", "middle"))
        .add(text(at(0.0), TOP - 12.0, "in red: the goal").set("fill", GOAL))
        .to_string()
}

/// Who it is, and with which policies.
fn family(variant: &str) -> (&str, &str) {
    match variant.rsplit_once(", ") {
        Some((family, policies)) if policies.ends_with(" policies") => (family, policies),
        _ => (variant, ""),
    }
}

fn bar(figure: &Value) -> Option<Bar<'_>> {
    let ratio = figure["ratio"].as_object()?;
    let number = |name: &str| ratio.get(name)?.as_f64();
    let (work, variant) = (figure["work"].as_str()?, figure["variant"].as_str()?);
    let is_drawn = match figure["unit"].as_str()? {
        "per s of processor" | "Gbit/s of processor" => true,
        "per s" | "Gbit/s" => work.contains("two processors"),
        _ => false,
    };
    // Everybody else's measure needs no bar.
    if !is_drawn || variant == "direct" {
        return None;
    }
    let goal = &figure["goal"];
    Some(Bar {
        work: format!("{work}, {}", figure["world"].as_str()?),
        variant,
        median: number("median")?,
        lower: number("lower")?,
        upper: number("upper")?,
        goal: (goal["subject"] == "ratio")
            .then(|| goal["limit"].as_f64())
            .flatten(),
    })
}

/// Its name, the bar, its quartiles as a line, its goal as a mark, and its number.
fn one(bar: &Bar<'_>, y: f64, (colour, strength): (&str, f64), at: impl Fn(f64) -> f64) -> Group {
    let middle = y + BAR / 2.0;
    let mut group = Group::new()
        .add(Title::new(bar.variant))
        .add(text(LEFT - 8.0, y + BAR - 3.0, bar.variant).set("text-anchor", "end"))
        .add(
            Rectangle::new()
                .set("x", at(0.0))
                .set("y", y + 1.0)
                .set("width", at(bar.median) - at(0.0))
                .set("height", BAR - 2.0)
                .set("fill", colour)
                .set("fill-opacity", strength),
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
                .set("stroke", GOAL)
                .set("stroke-width", 2),
        );
    }
    group
}

fn text(x: f64, y: f64, text: &str) -> Text {
    Text::new(text).set("x", x).set("y", y)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn figure(variant: &str, unit: &str, ratio: Value) -> Value {
        json!({
            "bench": "packets", "world": "1 service", "variant": variant, "work": "requests",
            "unit": unit, "value": {"median": 1.0, "lower": 1.0, "upper": 1.0, "count": 1},
            "ratio": ratio, "goal": {"subject": "ratio", "bound": "at_least", "limit": 0.99},
        })
    }

    fn ratio() -> Value {
        json!({"median": 0.987, "lower": 0.9, "upper": 1.0, "count": 3})
    }

    #[test]
    fn a_figure_with_a_ratio_has_a_bar_and_others_have_none() {
        let drawing = draw(&[
            figure("weir", "per s of processor", ratio()),
            figure("without", "per s of processor", Value::Null),
            figure("latency", "µs", ratio()),
            figure("direct", "per s of processor", ratio()),
        ]);
        assert!(drawing.contains("requests, 1 service"), "{drawing}");
        assert!(drawing.contains("0.99"), "{drawing}");
        for absent in ["without", "latency", "direct\n"] {
            assert!(!drawing.contains(absent), "{absent}: {drawing}");
        }
    }

    #[test]
    fn policies_make_the_colour_of_the_same_contender_weaker() {
        assert_eq!(
            family("Weir, fast path, 10 policies"),
            ("Weir, fast path", "10 policies")
        );
        assert_eq!(family("Weir, fast path"), ("Weir, fast path", ""));
        let drawing = draw(&[
            figure("Weir", "per s of processor", ratio()),
            figure("Weir, 10 policies", "per s of processor", ratio()),
        ]);
        assert_eq!(drawing.matches(COLOURS[0]).count(), 2, "{drawing}");
        assert!(drawing.contains("fill-opacity=\"0.7\""), "{drawing}");
    }

    #[test]
    fn what_is_written_is_escaped() {
        let mut figure = figure("weir", "per s of processor", ratio());
        figure["world"] = json!("a < b & c");
        let drawing = draw(&[figure]);
        assert!(drawing.contains("a &lt; b &amp; c"), "{drawing}");
    }
}
