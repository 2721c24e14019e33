use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;
use crate::model::{Cluster, Kind};

/// Far more than anything here takes; only a failing test waits that long.
const DEADLINE: Duration = Duration::from_secs(20);

fn node(name: &str, label: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{v: \"{label}\"}}}}\n"
    )
}

fn nodes(cluster: &Cluster) -> String {
    let nodes: Vec<String> = ["a", "b", "c"]
        .iter()
        .filter_map(|name| cluster.node(name))
        .map(|node| format!("{}={}", node.name, node.labels["v"]))
        .collect();
    nodes.join(" ")
}

/// A watched directory and the cluster that hears of it.
struct World {
    root: TempDir,
    cluster: Cluster,
    events: mpsc::Receiver<Event>,
    /// Every state that the nodes were in.
    history: Vec<String>,
}

impl World {
    async fn new(files: &[(&str, &str)]) -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("manifests")).unwrap();
        let (sender, events) = mpsc::channel(16);
        let mut world = Self {
            root,
            cluster: Cluster::default(),
            events,
            history: Vec::new(),
        };
        for (name, text) in files {
            world.write(name, text);
        }
        tokio::spawn(run(world.path(""), sender));
        world
            .until(|cluster| cluster.is_ready(SourceId::MANIFESTS))
            .await;
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join("manifests").join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn nodes(&self) -> String {
        nodes(&self.cluster)
    }

    fn problems(&self) -> Vec<String> {
        let reports = self.cluster.reports();
        let report = &reports[&SourceId::MANIFESTS];
        report.problems.iter().map(ToString::to_string).collect()
    }

    async fn until(&mut self, condition: impl Fn(&Cluster) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !condition(&self.cluster) {
            let event = tokio::time::timeout_at(deadline, self.events.recv())
                .await
                .unwrap_or_else(|_| panic!("still {:?} {:?}", self.nodes(), self.problems()))
                .expect("the source runs");
            self.cluster.apply(event);
            self.history.push(self.nodes());
        }
    }

    async fn until_node(&mut self, name: &str, label: &str) {
        self.until(|cluster| {
            cluster
                .node(name)
                .is_some_and(|node| node.labels["v"] == label)
        })
        .await;
    }

    async fn until_no_node(&mut self, name: &str) {
        self.until(|cluster| cluster.node(name).is_none()).await;
    }

    async fn until_problems(&mut self, count: usize) {
        self.until(|cluster| cluster.reports()[&SourceId::MANIFESTS].problems.len() == count)
            .await;
    }
}

#[tokio::test]
async fn the_first_event_is_the_complete_list() {
    let (a, b) = (node("a", "1"), node("b", "1"));
    let world = World::new(&[
        ("x.yaml", &a),
        ("y.yml", &b),
        (".z.yaml", "["),
        ("z.txt", "["),
    ])
    .await;
    assert_eq!(world.history, ["a=1 b=1"]);
    assert_eq!(world.problems(), [""; 0]);
}

#[tokio::test]
async fn files_come_change_and_go() {
    let mut world = World::new(&[]).await;
    world.write("x.yaml", &node("a", "1"));
    world.until_node("a", "1").await;
    world.write("x.yaml", &node("a", "2"));
    world.until_node("a", "2").await;
    world.write(".new", &node("a", "3"));
    fs::rename(world.path(".new"), world.path("x.yaml")).unwrap();
    world.until_node("a", "3").await;
    fs::rename(world.path("x.yaml"), world.path("y.yaml")).unwrap();
    world.write("z.yaml", &node("b", "1"));
    world.until_node("b", "1").await;
    fs::remove_file(world.path("y.yaml")).unwrap();
    world.until_no_node("a").await;
    assert_eq!(world.history, ["", "a=1", "a=2", "a=3", "a=3 b=1", "b=1"]);
}

#[tokio::test]
async fn a_file_that_is_emptied_and_then_written_is_seen_whole() {
    use std::io::Write as _;
    let mut world = World::new(&[("x.yaml", &node("a", "1"))]).await;
    let mut file = fs::File::create(world.path("x.yaml")).unwrap();
    file.sync_all().unwrap();
    file.write_all(node("a", "2").as_bytes()).unwrap();
    drop(file);
    world.until_node("a", "2").await;
    assert_eq!(world.history, ["a=1", "a=2"]);
}

#[tokio::test]
async fn a_broken_file_keeps_its_last_good_state_until_it_is_mended() {
    let text = node("a", "1") + &node("b", "1");
    let mut world = World::new(&[("x.yaml", &text)]).await;
    world.write("x.yaml", "spec: [1, 2\n");
    world.until_problems(1).await;
    assert_eq!(world.nodes(), "a=1 b=1");
    fs::write(world.path("x.yaml"), [0xff, 0xfe]).unwrap();
    world
        .until(|cluster| {
            let reports = cluster.reports();
            reports[&SourceId::MANIFESTS].problems[0].message == "is not UTF-8 text (byte 0)"
        })
        .await;
    assert_eq!(world.nodes(), "a=1 b=1");
    world.write("x.yaml", &node("a", "2"));
    world.until_problems(0).await;
    world.until_no_node("b").await;
    assert_eq!(world.nodes(), "a=2");
}

#[tokio::test]
async fn a_directory_that_goes_and_comes_back_is_read_again() {
    let mut world = World::new(&[("x.yaml", &node("a", "1"))]).await;
    fs::remove_dir_all(world.path("")).unwrap();
    world.until_problems(1).await;
    assert_eq!(world.nodes(), "a=1");
    assert!(
        world.problems()[0].contains("No such file"),
        "{:?}",
        world.problems()
    );
    fs::create_dir(world.path("")).unwrap();
    world.write("x.yaml", &node("a", "2"));
    world.until_node("a", "2").await;
    assert_eq!(world.problems(), [""; 0]);
    world.write("x.yaml", &node("a", "3"));
    world.until_node("a", "3").await;
}

#[tokio::test]
async fn a_directory_that_another_takes_the_place_of_is_the_other() {
    let mut world = World::new(&[("x.yaml", &node("a", "1"))]).await;
    let new = world.root.path().join("new");
    fs::create_dir(&new).unwrap();
    fs::write(new.join("x.yaml"), node("a", "2")).unwrap();
    fs::rename(world.path(""), world.root.path().join("old")).unwrap();
    fs::rename(&new, world.path("")).unwrap();
    world.until_node("a", "2").await;
    world.write("x.yaml", &node("a", "3"));
    world.until_node("a", "3").await;
}

/// The layout of a mounted ConfigMap: the files are links through `..data`, which is a link to a
/// directory, and an update replaces that link.
#[tokio::test]
async fn a_mounted_config_map_is_followed() {
    let mut world = World::new(&[]).await;
    let publish = |world: &World, version: &str| {
        let directory = format!("..{version}");
        fs::create_dir(world.path(&directory)).unwrap();
        fs::write(world.path(&directory).join("x.yaml"), node("a", version)).unwrap();
        symlink(&directory, world.path("..data_tmp")).unwrap();
        fs::rename(world.path("..data_tmp"), world.path("..data")).unwrap();
    };
    publish(&world, "1");
    symlink("..data/x.yaml", world.path("x.yaml")).unwrap();
    world.until_node("a", "1").await;
    publish(&world, "2");
    fs::remove_dir_all(world.path("..1")).unwrap();
    world.until_node("a", "2").await;
    assert_eq!(world.problems(), [""; 0]);
}

#[tokio::test]
async fn the_target_of_a_link_elsewhere_is_found_by_its_time() {
    let mut world = World::new(&[]).await;
    let elsewhere = world.root.path().join("elsewhere.yaml");
    fs::write(&elsewhere, node("a", "1")).unwrap();
    symlink(&elsewhere, world.path("x.yaml")).unwrap();
    world.until_node("a", "1").await;
    fs::write(&elsewhere, node("a", "22")).unwrap();
    world.until_node("a", "22").await;
}

#[tokio::test]
async fn a_directory_that_is_not_there_at_first_is_an_error_that_says_so() {
    let (sender, _events) = mpsc::channel(1);
    let error = run(PathBuf::from("/nonexistent/manifests"), sender)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "directory /nonexistent/manifests: No such file or directory (os error 2); \
         create it or name another directory"
    );
}

#[tokio::test]
async fn the_source_ends_when_nobody_listens() {
    let root = tempfile::tempdir().unwrap();
    let (sender, events) = mpsc::channel(1);
    let source = tokio::spawn(run(root.path().to_owned(), sender));
    drop(events);
    tokio::time::timeout(DEADLINE, source)
        .await
        .expect("it ends")
        .unwrap()
        .unwrap();
}

/// What is removed waits until it is quiet, which tells how long that takes here.
#[tokio::test]
async fn what_is_whole_waits_for_nothing() {
    let mut world = World::new(&[]).await;
    let (mut renamed, mut written, mut removed) = (Vec::new(), Vec::new(), Vec::new());
    for version in 0..7 {
        let (one, other) = (format!("{version}a"), format!("{version}b"));
        world.write(".new", &node("a", &one));
        let start = Instant::now();
        fs::rename(world.path(".new"), world.path("x.yaml")).unwrap();
        world.until_node("a", &one).await;
        renamed.push(start.elapsed());
        let start = Instant::now();
        world.write("x.yaml", &node("a", &other));
        world.until_node("a", &other).await;
        written.push(start.elapsed());
        let start = Instant::now();
        fs::remove_file(world.path("x.yaml")).unwrap();
        world.until_no_node("a").await;
        removed.push(start.elapsed());
    }
    let [renamed, written, removed] = [renamed, written, removed].map(|mut times| {
        times.sort();
        times[times.len() / 2]
    });
    assert!(
        renamed < removed && written < removed,
        "{renamed:?} {written:?} {removed:?}"
    );
}

/// What is told of the nodes, each time that something is, where nothing waits.
fn told(events: &mut mpsc::Receiver<Event>, cluster: &mut Cluster) -> Vec<String> {
    let mut history = Vec::new();
    while let Ok(event) = events.try_recv() {
        cluster.apply(event);
        history.push(nodes(cluster));
    }
    history
}

#[test]
fn what_is_removed_counts_when_it_is_quiet_and_nothing_later_before_it() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    let write = |name: &str, nodes: &[(&str, &str)]| {
        let text: String = nodes
            .iter()
            .map(|(name, label)| node(name, label))
            .collect();
        fs::write(path(name), text).unwrap();
    };
    let (signals, _watched) = mpsc::unbounded_channel();
    let (sender, mut events) = mpsc::channel(16);
    let mut source = Source::new(root.path().to_owned(), signals, sender).unwrap();
    let mut cluster = Cluster::default();
    let mut seen = |source: &mut Source, whole: &[&str], unsettled: &[&str]| {
        let paths = |names: &[&str]| names.iter().map(|name| path(name)).collect();
        source.read_whole(&paths(whole), &paths(unsettled));
        told(&mut events, &mut cluster)
    };
    let nothing = [""; 0];

    write("x.yaml", &[("a", "1"), ("b", "1")]);
    source.refresh();
    assert_eq!(seen(&mut source, &[], &[]), ["a=1 b=1"]);
    write("x.yaml", &[("a", "2"), ("b", "1"), ("c", "1")]);
    assert_eq!(seen(&mut source, &["x.yaml"], &[]), ["a=2 b=1 c=1"]);

    // A node moves to another file.
    write("x.yaml", &[("b", "2")]);
    assert_eq!(seen(&mut source, &["x.yaml"], &[]), nothing);
    write("y.yaml", &[("a", "3")]);
    assert_eq!(seen(&mut source, &["y.yaml"], &[]), nothing);
    source.refresh();
    assert_eq!(seen(&mut source, &[], &[]), ["a=3 b=2"]);

    // A file is removed, or takes another name.
    fs::remove_file(path("x.yaml")).unwrap();
    write("y.yaml", &[("a", "4")]);
    assert_eq!(seen(&mut source, &["y.yaml"], &["x.yaml"]), nothing);
    source.refresh();
    assert_eq!(seen(&mut source, &[], &[]), ["a=4"]);
    fs::rename(path("y.yaml"), path("z.yaml")).unwrap();
    assert_eq!(seen(&mut source, &["z.yaml"], &["y.yaml"]), nothing);
    source.refresh();
    assert_eq!(seen(&mut source, &[], &[]), nothing);
    assert_eq!(source.files.report().problems, []);

    // What came back was not gone.
    write("z.yaml", &[]);
    assert_eq!(seen(&mut source, &["z.yaml"], &[]), nothing);
    write("z.yaml", &[("a", "4"), ("b", "5")]);
    assert_eq!(seen(&mut source, &["z.yaml"], &[]), ["a=4 b=5"]);
}

#[tokio::test]
async fn a_long_first_list_is_complete_before_it_counts() {
    let nodes: String = (0..3 * PART)
        .map(|number| node(&format!("n{number}"), "1"))
        .collect();
    let world = World::new(&[("x.yaml", &nodes), ("y.yaml", &node("a", "1"))]).await;
    let (last, earlier) = world.history.split_last().unwrap();
    assert_eq!(last, "a=1");
    assert!(
        !earlier.is_empty() && earlier.iter().all(String::is_empty),
        "{earlier:?}"
    );
    assert_eq!(
        world.cluster.counts(SourceId::MANIFESTS)[&Kind::Node],
        3 * PART + 1
    );
}
