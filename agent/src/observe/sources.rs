//! How fresh the directory of manifests is, as the status tells of every source.

use jiff::Timestamp;

use super::status::{Source, SourceState};
use crate::model::{Cluster, Kind, SourceId};

/// A row for each kind of the directory of manifests. Before: the rows of the last time.
///
/// A file that cannot be read is a problem of its own; a directory that cannot be read ends the
/// news of every kind.
#[must_use]
pub fn of_manifests(cluster: &Cluster, before: &[Source], now: Timestamp) -> Vec<Source> {
    let source = SourceId::MANIFESTS;
    let counts = cluster.counts(source);
    let reports = cluster.reports();
    let fault = reports.get(&source).and_then(|report| {
        let mut problems = report.problems.iter();
        problems.find(|problem| problem.file.is_none() && problem.object.is_none())
    });
    let is_ready = cluster.is_ready(source);
    let state = match fault {
        Some(_) => SourceState::Failing,
        None if is_ready => SourceState::Synced,
        None => SourceState::Listing,
    };
    let name = source.to_string();
    let row = |kind: Kind| {
        let earlier = before
            .iter()
            .find(|row| row.source == name && row.kind == kind.name());
        let since = earlier
            .filter(|row| row.state == state)
            .map_or(now, |row| row.since);
        let last_news = match state {
            SourceState::Synced => Some(now),
            SourceState::Listing
            | SourceState::Failing
            | SourceState::Forbidden
            | SourceState::Absent => earlier.and_then(|row| row.last_news),
        };
        Source {
            source: name.clone(),
            kind: kind.name().to_owned(),
            state,
            objects: counts.get(&kind).copied().unwrap_or(0),
            since,
            last_news,
            error: fault.map(|problem| problem.message.clone()),
            resource_version: None,
        }
    };
    Kind::ALL.map(row).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Change, Event, Problem, Report};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn told(cluster: &mut Cluster, changes: Vec<Change>) {
        let source = SourceId::MANIFESTS;
        cluster.apply(Event { source, changes });
    }

    fn services(rows: &[Source]) -> &Source {
        rows.iter().find(|row| row.kind == "Service").unwrap()
    }

    #[test]
    fn a_directory_is_listed_then_synced_then_failing_and_says_since_when() {
        let mut cluster = Cluster::default();
        let rows = of_manifests(&cluster, &[], at(10));
        assert_eq!(rows.len(), Kind::ALL.len());
        assert_eq!(services(&rows).state, SourceState::Listing);

        told(&mut cluster, vec![Change::Ready]);
        let rows = of_manifests(&cluster, &rows, at(20));
        assert_eq!(services(&rows).state, SourceState::Synced);
        let rows = of_manifests(&cluster, &rows, at(30));
        assert_eq!(services(&rows).since, at(20), "the state is the same");
        assert_eq!(services(&rows).last_news, Some(at(30)));

        let report = Report {
            problems: vec![Problem::new("directory /m: No such file or directory")],
            ..Report::default()
        };
        told(&mut cluster, vec![Change::Report(report)]);
        let rows = of_manifests(&cluster, &rows, at(40));
        let row = services(&rows);
        assert_eq!((row.state, row.since), (SourceState::Failing, at(40)));
        assert_eq!(row.last_news, Some(at(30)), "a fault is no news");
        assert!(row.error.as_ref().unwrap().contains("No such file"));
    }

    #[test]
    fn a_file_at_fault_is_no_fault_of_the_directory() {
        let mut cluster = Cluster::default();
        let report = Report {
            problems: vec![Problem::new("is not YAML").in_file("a.yaml")],
            ..Report::default()
        };
        told(&mut cluster, vec![Change::Report(report), Change::Ready]);
        let rows = of_manifests(&cluster, &[], at(1));
        assert_eq!(services(&rows).state, SourceState::Synced);
        assert_eq!(services(&rows).error, None);
    }
}
