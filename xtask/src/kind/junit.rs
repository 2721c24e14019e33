//! The report of a run of Ginkgo, which is JUnit's XML.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};

/// What became of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Shown first.
    Failed,
    /// It held.
    Passed,
    /// It was not asked for, or cannot run in such a cluster.
    Skipped,
}

/// A test of a report.
#[derive(Clone, Debug, PartialEq)]
pub struct Test {
    name: String,
    outcome: Outcome,
    seconds: f64,
    message: String,
}

impl Test {
    /// It ran, and held.
    pub fn passed(&self) -> bool {
        self.outcome == Outcome::Passed
    }

    /// It ran, and did not hold.
    pub fn failed(&self) -> bool {
        self.outcome == Outcome::Failed
    }
}

/// Reads a report.
pub fn parse(text: &str) -> Result<Vec<Test>> {
    let document = roxmltree::Document::parse(text).context("this is no XML")?;
    let cases = document
        .descendants()
        .filter(|node| node.has_tag_name("testcase"));
    let mut tests = cases
        .map(|case| {
            let name = case.attribute("name").context("a test without a name")?;
            let has = |tags: &[&str]| {
                case.children()
                    .find(|child| tags.iter().any(|tag| child.has_tag_name(*tag)))
            };
            let failure = has(&["failure", "error"]);
            let outcome = match failure {
                Some(_) => Outcome::Failed,
                None if has(&["skipped"]).is_some() => Outcome::Skipped,
                None => Outcome::Passed,
            };
            let message = failure
                .and_then(|it| it.attribute("message").or_else(|| it.text()))
                .unwrap_or_default();
            Ok(Test {
                name: name.to_owned(),
                outcome,
                seconds: case
                    .attribute("time")
                    .and_then(|time| time.parse().ok())
                    .unwrap_or_default(),
                message: message.trim().to_owned(),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    tests.sort_by(|a, b| (a.outcome, &a.name).cmp(&(b.outcome, &b.name)));
    Ok(tests)
}

/// What ran, for people: failures first, each with its message.
pub fn table(tests: &[Test]) -> String {
    let mut text = String::new();
    for test in tests {
        let word = match test.outcome {
            Outcome::Passed => "passed",
            Outcome::Failed => "FAILED",
            Outcome::Skipped => continue,
        };
        // A string takes whatever is written.
        let _ = writeln!(text, "{word}  {:>7.1} s  {}", test.seconds, test.name);
        for line in test.message.lines().take(5) {
            let _ = writeln!(text, "        {line}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites tests="3">
  <testsuite name="Kubernetes e2e suite" tests="3" failures="1">
    <testcase name="[It] [sig-network] Services should serve" classname="e2e" status="passed" time="12.5"></testcase>
    <testcase name="[It] [sig-storage] elsewhere" classname="e2e" status="skipped" time="0"><skipped message="skipped"></skipped></testcase>
    <testcase name="[It] [sig-network] Netpol &lt;deny&gt;" classname="e2e" status="failed" time="3">
      <failure message="expected &#34;refused&#34;" type="failed">at netpol.go:1</failure>
    </testcase>
  </testsuite>
</testsuites>"#;

    #[test]
    fn a_report_tells_what_became_of_each_test() {
        let tests = parse(REPORT).unwrap();
        let outcomes: Vec<_> = tests.iter().map(|it| (it.outcome, &*it.name)).collect();
        assert_eq!(
            outcomes,
            [
                (Outcome::Failed, "[It] [sig-network] Netpol <deny>"),
                (Outcome::Passed, "[It] [sig-network] Services should serve"),
                (Outcome::Skipped, "[It] [sig-storage] elsewhere"),
            ]
        );
        let table = table(&tests);
        assert!(table.contains("expected \"refused\""), "{table}");
        assert!(
            !table.contains("elsewhere"),
            "what was not asked for: {table}"
        );
        assert!(parse("not a report").is_err());
    }
}
