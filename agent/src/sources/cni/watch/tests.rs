//! The directory as libcni and others treat it.

use std::fs::{File, OpenOptions};
use std::io::Write as _;

use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::observe::status::{self, SourceState};

fn record(pod: &str) -> String {
    format!(
        r#"{{"kind":"cniCacheV1","containerId":"c","config":"e30=","ifName":"eth0","networkName":"n","cniArgs":[["K8S_POD_NAMESPACE","shop"],["K8S_POD_NAME","{pod}"]],"result":{{"cniVersion":"1.0.0"}}}}"#
    )
}

struct Watched {
    directory: PathBuf,
    records: watch::Receiver<Option<Vec<Record>>>,
    events: mpsc::Receiver<Event>,
    row: watch::Receiver<status::Source>,
    _temporary: TempDir,
}

impl Watched {
    /// The directory is a few below one that exists.
    fn start(prepare: impl FnOnce(&Path)) -> Self {
        let temporary = TempDir::new().unwrap();
        let directory = temporary.path().join("cni/results");
        prepare(&directory);
        let (sender, records) = watch::channel(None);
        let (problems, events) = mpsc::channel(16);
        let row = Row::new(SourceId::CNI, "Record");
        let told = row.told();
        tokio::spawn(run(directory.clone(), sender, problems, row));
        Self {
            directory,
            records,
            events,
            row: told,
            _temporary: temporary,
        }
    }

    async fn until_pods(&mut self, expected: &[&str]) {
        let expected: Vec<&str> = expected.to_vec();
        let pods = |records: &[Record]| -> Vec<String> {
            let mut pods: Vec<_> = records.iter().map(|it| it.pod.name.clone()).collect();
            pods.sort();
            pods
        };
        let reached = self.records.wait_for(|records| {
            records
                .as_ref()
                .is_some_and(|records| pods(records) == expected)
        });
        let is_reached = timeout(Duration::from_secs(20), reached).await.is_ok();
        assert!(
            is_reached,
            "never {expected:?}; last {:?}",
            self.records.borrow()
        );
    }

    async fn until_state(&mut self, expected: SourceState) -> status::Source {
        let reached = self.row.wait_for(|row| row.state == expected);
        let row = timeout(Duration::from_secs(20), reached).await;
        row.expect("it comes to that").unwrap().clone()
    }

    /// The problems that are told next.
    async fn problems(&mut self) -> Vec<String> {
        let event = timeout(Duration::from_secs(20), self.events.recv()).await;
        let event = event.expect("a report comes").unwrap();
        assert_eq!(event.source, SourceId::CNI);
        let [Change::Report(report)] = event.changes.as_slice() else {
            panic!("{event:?}")
        };
        report.problems.iter().map(ToString::to_string).collect()
    }
}

#[tokio::test]
async fn records_come_and_go() {
    let mut watched = Watched::start(|directory| {
        fs::create_dir_all(directory).unwrap();
        fs::write(directory.join("n-1-eth0"), record("early")).unwrap();
    });
    watched.until_pods(&["early"]).await;
    fs::write(watched.directory.join("n-2-eth0"), record("late")).unwrap();
    watched.until_pods(&["early", "late"]).await;
    let elsewhere = watched.directory.with_file_name("new");
    fs::write(&elsewhere, record("moved")).unwrap();
    fs::rename(&elsewhere, watched.directory.join("n-3-eth0")).unwrap();
    watched.until_pods(&["early", "late", "moved"]).await;
    fs::remove_file(watched.directory.join("n-1-eth0")).unwrap();
    watched.until_pods(&["late", "moved"]).await;
}

#[tokio::test]
async fn a_directory_made_later_and_made_anew_is_watched() {
    let mut watched = Watched::start(|_| {});
    watched.until_pods(&[]).await;
    for round in ["one", "two"] {
        fs::create_dir_all(&watched.directory).unwrap();
        fs::write(watched.directory.join("n-1-eth0"), record(round)).unwrap();
        watched.until_pods(&[round]).await;
        fs::remove_dir_all(watched.directory.parent().unwrap()).unwrap();
        watched.until_pods(&[]).await;
    }
    assert!(watched.events.try_recv().is_err(), "none of that is wrong");
}

#[tokio::test]
async fn the_status_has_how_the_directory_is() {
    let mut watched = Watched::start(|_| {});
    assert_eq!(watched.until_state(SourceState::Absent).await.error, None);
    fs::create_dir_all(&watched.directory).unwrap();
    fs::write(watched.directory.join("n-1-eth0"), record("cart")).unwrap();
    watched.until_pods(&["cart"]).await;
    let row = watched.until_state(SourceState::Synced).await;
    assert_eq!((row.objects, row.error), (1, None));
    assert!(row.last_news.is_some());
    // No directory, and not missing.
    fs::remove_dir_all(&watched.directory).unwrap();
    fs::write(&watched.directory, "").unwrap();
    let row = watched.until_state(SourceState::Failing).await;
    assert!(row.error.is_some_and(|error| !error.is_empty()));
}

#[tokio::test]
async fn a_record_is_read_when_it_has_been_written_whole() {
    let mut watched = Watched::start(|directory| fs::create_dir_all(directory).unwrap());
    watched.until_pods(&[]).await;
    let begun = Instant::now();
    let text = record("cart");
    let (begin, rest) = text.split_at(60);
    let mut file = File::create(watched.directory.join("n-1-eth0")).unwrap();
    file.write_all(begin.as_bytes()).unwrap();
    // What comes later is seen later, so the half has been looked at by then.
    fs::write(watched.directory.join("n-2-eth0"), record("other")).unwrap();
    watched.until_pods(&["other"]).await;
    file.write_all(rest.as_bytes()).unwrap();
    drop(file);
    watched.until_pods(&["cart", "other"]).await;
    // What stays a half from one comparison to the next is none.
    let was_quick = begun.elapsed() < COMPARE_EVERY;
    assert!(
        watched.events.try_recv().is_err() || !was_quick,
        "nothing is wrong with it"
    );
}

#[tokio::test]
async fn what_cannot_be_read_is_named_and_read_again_when_it_changes() {
    let mut watched = Watched::start(|directory| {
        fs::create_dir_all(directory).unwrap();
        fs::write(directory.join("n-1-eth0"), &record("cart")[..60]).unwrap();
        fs::write(directory.join("n-2-eth0"), "").unwrap();
    });
    let path = watched.directory.join("n-1-eth0");
    let problems = watched.problems().await;
    let [problem] = problems.as_slice() else {
        panic!("{problems:?}")
    };
    assert!(
        problem.starts_with(&format!("{}: ", path.display())),
        "{problem}"
    );
    assert!(problem.contains("EOF"), "{problem}");

    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(&record("cart").as_bytes()[60..]).unwrap();
    drop(file);
    watched.until_pods(&["cart"]).await;
    assert_eq!(watched.problems().await, [""; 0]);

    fs::write(&path, record("cart").replace("cniCacheV1", "v2")).unwrap();
    assert_eq!(
        watched.problems().await,
        [format!(
            "{}: kind: \"v2\" is not cniCacheV1",
            path.display()
        )]
    );
    watched.until_pods(&[]).await;
    fs::remove_file(&path).unwrap();
    assert_eq!(watched.problems().await, [""; 0]);
}

#[tokio::test]
async fn later_records_come_after_earlier_ones() {
    let mut watched = Watched::start(|directory| fs::create_dir_all(directory).unwrap());
    for (name, pod, age) in [("a", "new", 0), ("b", "old", 3600)] {
        let file = File::create(watched.directory.join(name)).unwrap();
        (&file).write_all(record(pod).as_bytes()).unwrap();
        let time = std::time::SystemTime::now() - Duration::from_secs(age);
        file.set_modified(time).unwrap();
    }
    watched.until_pods(&["new", "old"]).await;
    let order: Vec<String> = watched.records.borrow().as_ref().map_or(Vec::new(), |it| {
        it.iter().map(|record| record.pod.name.clone()).collect()
    });
    assert_eq!(order, ["old", "new"]);
}
