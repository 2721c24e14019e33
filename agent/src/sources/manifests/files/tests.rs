use proptest::prelude::*;

use super::*;
use crate::model::{Cluster, Event, SourceId};

const BROKEN: &str = "spec: [1, 2\n";

fn node(name: &str, label: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{v: \"{label}\"}}}}\n"
    )
}

/// A node whose name can be read and whose labels cannot.
fn invalid(name: &str) -> String {
    format!("---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: 7}}\n")
}

fn scan(files: &[(&str, &str)]) -> Scan {
    Ok(files
        .iter()
        .map(|(name, text)| ((*name).to_owned(), Ok((*text).to_owned())))
        .collect())
}

/// Files and the cluster that hears of them.
#[derive(Default)]
struct World {
    files: Files,
    cluster: Cluster,
}

impl World {
    /// The nodes `a` to `d` with the value of their label, and the problems, after a scan.
    fn after(&mut self, scan: Scan) -> (String, Vec<String>) {
        let changes = self.files.update(scan);
        self.told(changes)
    }

    /// The same after one file has been read, or is not there any more.
    fn after_one(&mut self, name: &str, text: Option<&str>) -> (String, Vec<String>) {
        self.files.take(name, text.map(|text| Ok(text.to_owned())));
        let changes = self.files.changes();
        self.told(changes)
    }

    fn after_forgetting(&mut self) -> (String, Vec<String>) {
        self.files.forget();
        assert!(!self.files.has_leaving());
        let changes = self.files.changes();
        self.told(changes)
    }

    fn told(&mut self, changes: Vec<Change>) -> (String, Vec<String>) {
        self.cluster.apply(Event {
            source: SourceId::MANIFESTS,
            changes,
        });
        let nodes: Vec<String> = ["a", "b", "c", "d"]
            .iter()
            .filter_map(|name| self.cluster.node(name))
            .map(|node| format!("{}={}", node.name, node.labels["v"]))
            .collect();
        let reports = self.cluster.reports();
        let problems = reports
            .get(&SourceId::MANIFESTS)
            .map(|report| report.problems.iter().map(ToString::to_string).collect())
            .unwrap_or_default();
        (nodes.join(" "), problems)
    }

    fn nodes_after(&mut self, files: &[(&str, &str)]) -> String {
        self.after(scan(files)).0
    }
}

#[test]
fn objects_come_change_and_go_with_their_documents() {
    let mut world = World::default();
    let one = node("a", "1") + &node("b", "1");
    assert_eq!(world.nodes_after(&[("x.yaml", &one)]), "a=1 b=1");
    assert!(world.cluster.is_ready(SourceId::MANIFESTS));
    assert_eq!(world.files.update(scan(&[("x.yaml", &one)])), []);
    let two = node("a", "2") + &node("c", "1");
    assert_eq!(world.nodes_after(&[("x.yaml", &two)]), "a=2 c=1");
    assert_eq!(world.nodes_after(&[]), "");
}

#[test]
fn a_file_that_takes_another_name_changes_nothing() {
    let mut files = Files::default();
    let text = node("a", "1");
    files.update(scan(&[("x.yaml", &text)]));
    assert_eq!(files.update(scan(&[("y.yaml", &text)])), []);
}

#[test]
fn an_invalid_object_keeps_its_last_good_version_and_the_others_change() {
    let mut world = World::default();
    let text = node("a", "1") + &node("b", "1") + &node("c", "1");
    world.nodes_after(&[("x.yaml", &text)]);
    let text = node("a", "2") + &invalid("b");
    let (nodes, problems) = world.after(scan(&[("x.yaml", &text)]));
    assert_eq!(nodes, "a=2 b=1");
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0].starts_with("x.yaml:8: metadata.labels: invalid type")
            && problems[0].ends_with("(Node b)"),
        "{problems:?}"
    );
    let (nodes, problems) = world.after(scan(&[("x.yaml", &node("b", "3"))]));
    assert_eq!((nodes.as_str(), problems.len()), ("b=3", 0));
}

#[test]
fn an_invalid_object_that_is_removed_goes() {
    let mut world = World::default();
    world.nodes_after(&[("x.yaml", &node("a", "1"))]);
    assert_eq!(world.nodes_after(&[("x.yaml", &invalid("a"))]), "a=1");
    assert_eq!(
        world.nodes_after(&[("x.yaml", &invalid("a")), ("y.yaml", "")]),
        "a=1"
    );
    assert_eq!(world.nodes_after(&[("x.yaml", "")]), "");
}

#[test]
fn nothing_of_a_file_with_an_unreadable_document_goes() {
    let mut world = World::default();
    let text = node("a", "1") + &node("b", "1");
    world.nodes_after(&[("x.yaml", &text), ("y.yaml", &node("c", "1"))]);
    let broken = node("a", "2") + "---\n" + BROKEN + &node("d", "1");
    let (nodes, problems) = world.after(scan(&[("x.yaml", &broken)]));
    assert_eq!(nodes, "a=2 b=1 d=1", "the other file is gone, and its node");
    assert_eq!(problems.len(), 1);
    assert!(problems[0].starts_with("x.yaml:"), "{problems:?}");
    assert_eq!(world.nodes_after(&[("x.yaml", &node("a", "3"))]), "a=3");
}

#[test]
fn nothing_of_a_file_that_cannot_be_read_goes() {
    let mut world = World::default();
    world.nodes_after(&[("x.yaml", &node("a", "1"))]);
    let unreadable = BTreeMap::from([("x.yaml".to_owned(), Err("permission denied".to_owned()))]);
    let (nodes, problems) = world.after(Ok(unreadable));
    assert_eq!(nodes, "a=1");
    assert_eq!(problems, ["x.yaml: permission denied"]);
    let (nodes, problems) = world.after(scan(&[("x.yaml", &node("a", "1"))]));
    assert_eq!((nodes.as_str(), problems.len()), ("a=1", 0));
}

#[test]
fn nothing_goes_with_the_directory() {
    let mut world = World::default();
    world.nodes_after(&[("x.yaml", &node("a", "1"))]);
    let (nodes, problems) = world.after(Err("the directory is gone".to_owned()));
    assert_eq!(nodes, "a=1");
    assert_eq!(problems, ["the directory is gone"]);
    let (nodes, problems) = world.after(scan(&[("x.yaml", &node("b", "1"))]));
    assert_eq!((nodes.as_str(), problems.len()), ("b=1", 0));
}

#[test]
fn a_directory_that_was_never_read_is_not_ready() {
    let mut world = World::default();
    world.after(Err("no such directory".to_owned()));
    assert!(!world.cluster.is_ready(SourceId::MANIFESTS));
    world.after(scan(&[]));
    assert!(world.cluster.is_ready(SourceId::MANIFESTS));
}

#[test]
fn of_an_object_in_two_places_the_first_counts_and_the_other_is_reported() {
    let mut world = World::default();
    let text = node("b", "1") + &node("b", "2");
    let (nodes, problems) = world.after(scan(&[
        ("y.yaml", &node("a", "y")),
        ("x.yaml", &node("a", "x")),
        ("z.yaml", &text),
    ]));
    assert_eq!(nodes, "a=x b=1");
    assert_eq!(
        problems,
        [
            "y.yaml:2: is at x.yaml:2 as well, which counts; remove one of the two (Node a)",
            "z.yaml:6: is at z.yaml:2 as well, which counts; remove one of the two (Node b)",
        ]
    );
    let (nodes, problems) = world.after(scan(&[("y.yaml", &node("a", "y"))]));
    assert_eq!((nodes.as_str(), problems.len()), ("a=y", 0));
}

#[test]
fn an_object_that_moves_out_of_a_broken_file_is_believed_where_it_can_be_read() {
    let mut world = World::default();
    world.nodes_after(&[("x.yaml", &node("a", "x"))]);
    let (nodes, problems) = world.after(scan(&[("x.yaml", BROKEN), ("y.yaml", &node("a", "y"))]));
    assert_eq!(nodes, "a=y");
    assert_eq!(problems.len(), 1, "{problems:?}");
}

#[test]
fn what_a_file_no_longer_says_counts_until_it_is_forgotten() {
    let mut world = World::default();
    world.nodes_after(&[("x.yaml", &(node("a", "1") + &node("b", "1")))]);
    assert_eq!(
        world.after_one("x.yaml", Some(&node("a", "2"))).0,
        "a=2 b=1"
    );
    assert!(world.files.has_leaving());
    assert_eq!(world.after_forgetting().0, "a=2");
    assert_eq!(world.after_one("x.yaml", None).0, "a=2");
    assert!(world.files.has_leaving());
    assert_eq!(world.after_forgetting().0, "");
}

#[test]
fn nothing_is_forgotten_while_the_directory_cannot_be_read() {
    let mut world = World::default();
    world.nodes_after(&[("x.yaml", &node("a", "1"))]);
    world.after_one("x.yaml", Some(""));
    world.after(Err("the directory is gone".to_owned()));
    world.files.forget();
    assert!(world.files.has_leaving());
    assert_eq!(world.files.changes(), []);
    assert_eq!(world.nodes_after(&[("x.yaml", "")]), "");
}

#[test]
fn what_moves_to_another_file_is_neither_gone_nor_twice() {
    let mut world = World::default();
    world.nodes_after(&[("x.yaml", &node("a", "1")), ("y.yaml", &node("b", "1"))]);
    let sound = |nodes: &str| (nodes.to_owned(), Vec::new());
    assert_eq!(world.after_one("x.yaml", Some("")), sound("a=1 b=1"));
    assert_eq!(
        world.after_one("z.yaml", Some(&node("a", "2"))),
        sound("a=2 b=1")
    );
    assert_eq!(world.after_one("y.yaml", None), sound("a=2 b=1"));
    assert_eq!(
        world.after_one("x.yaml", Some(&node("b", "2"))),
        sound("a=2 b=2")
    );
    assert_eq!(world.after_forgetting(), sound("a=2 b=2"));
}

#[test]
fn what_comes_back_before_it_is_forgotten_was_never_gone() {
    let mut world = World::default();
    let text = node("a", "1");
    world.nodes_after(&[("x.yaml", &text)]);
    for text_between in [None, Some("")] {
        world
            .files
            .take("x.yaml", text_between.map(|text| Ok(text.to_owned())));
        assert_eq!(world.files.changes(), []);
        world.files.take("x.yaml", Some(Ok(text.clone())));
        world.files.forget();
        assert_eq!(world.files.changes(), []);
    }
}

#[test]
fn what_leaves_a_file_that_then_breaks_stays() {
    let mut world = World::default();
    world.nodes_after(&[("x.yaml", &node("a", "1"))]);
    world.after_one("x.yaml", Some(""));
    let (nodes, problems) = world.after_one("x.yaml", Some(BROKEN));
    assert_eq!((nodes.as_str(), problems.len()), ("a=1", 1));
    assert_eq!(world.after_forgetting().0, "a=1");
}

#[test]
fn an_unknown_kind_is_named_once() {
    let mut files = Files::default();
    let secret = "apiVersion: v1\nkind: Secret\n---\napiVersion: v1\nkind: Secret\n";
    files.update(scan(&[("x.yaml", secret), ("y.yaml", secret)]));
    assert_eq!(
        files.report().unknown_kinds,
        BTreeSet::from(["v1/Secret".to_owned()])
    );
    assert!(files.report().problems.is_empty());
}

/// Texts of a file: each of some documents good, invalid or no YAML.
fn texts() -> impl Strategy<Value = String> {
    let document = (0_usize..4, 0_u8..3, 0_u8..8).prop_map(|(name, version, form)| {
        let name = ["a", "b", "c", "d"][name];
        match form {
            0 => format!("---\n{BROKEN}"),
            1 => invalid(name),
            _ => node(name, &version.to_string()),
        }
    });
    proptest::collection::vec(document, 0..4).prop_map(|documents| documents.concat())
}

fn directories() -> impl Strategy<Value = BTreeMap<String, String>> {
    proptest::collection::btree_map("[xyz]\\.yaml", texts(), 0..3)
}

fn to_scan(directory: &BTreeMap<String, String>) -> Scan {
    Ok(directory
        .iter()
        .map(|(name, text)| (name.clone(), Ok(text.clone())))
        .collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Once a directory is sound, nothing of what it was before is left.
    #[test]
    fn a_sound_directory_equals_starting_afresh(
        history in proptest::collection::vec(directories(), 0..5),
        last in directories(),
    ) {
        let mut afresh = World::default();
        let expected = afresh.after(to_scan(&last));
        let is_sound = afresh.files.report().problems.is_empty();
        let mut world = World::default();
        for directory in &history {
            world.after(to_scan(directory));
        }
        let seen = world.after(to_scan(&last));
        if is_sound {
            prop_assert_eq!(&seen, &expected);
            prop_assert_eq!(world.cluster, afresh.cluster);
        } else {
            // What can be read is in force either way.
            for node in expected.0.split(' ') {
                prop_assert!(seen.0.contains(node), "{:?} lacks {}", seen, node);
            }
            prop_assert_eq!(seen.1, expected.1);
        }
        prop_assert_eq!(world.files.update(to_scan(&last)), []);
    }

    /// Files that are read one by one, in any order, come to the same as all of them at once. What
    /// is there before and after is there between.
    #[test]
    fn one_file_after_the_other_comes_to_the_same(
        history in proptest::collection::vec((directories(), any::<bool>()), 1..6),
    ) {
        let (mut whole, mut single) = (World::default(), World::default());
        single.files.listed(&BTreeSet::new());
        single.told(vec![Change::Ready]);
        single.files.changes();
        let mut before = (String::new(), Vec::new());
        let mut names = BTreeSet::new();
        for (directory, is_backwards) in &history {
            let after = whole.after(to_scan(directory));
            names.extend(directory.keys().cloned());
            let mut order: Vec<&String> = names.iter().collect();
            if *is_backwards {
                order.reverse();
            }
            for name in order {
                let (between, _) = single.after_one(name, directory.get(name).map(String::as_str));
                let names = |nodes: &str| -> BTreeSet<char> {
                    nodes.split(' ').filter_map(|node| node.chars().next()).collect()
                };
                let stays = &names(&before.0) & &names(&after.0);
                prop_assert!(stays.is_subset(&names(&between)), "{} of {:?}", between, stays);
            }
            prop_assert_eq!(single.after_forgetting(), after.clone());
            before = after;
        }
        prop_assert_eq!(single.cluster, whole.cluster);
    }
}
