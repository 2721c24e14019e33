use super::super::tests::{answer, of};
use super::rows::{BAR, bar};
use super::*;
use crate::observe::{
    account::{PacketHook, SocketHook},
    status::{Interface, RecentError, Skipped, Table},
};

fn now() -> Timestamp {
    "2026-01-01T03:20:00Z".parse().unwrap()
}

fn paths() -> Paths {
    Paths {
        bpffs: "/bpf".into(),
        run_dir: "/run/weir".into(),
    }
}

fn page(answer: &Answer, is_wide: bool) -> String {
    // Whoever runs the tests may have a terminal with colours.
    owo_colors::set_override(false);
    lines(answer, &paths(), now(), is_wide).join("\n")
}

/// Says all of these, each on one line, with blanks as wide as they come.
fn says(page: &str, sentences: &[&str]) {
    let plain = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<String> = page.lines().map(plain).collect();
    for sentence in sentences {
        assert!(
            lines.iter().any(|line| line.contains(sentence)),
            "{sentence:?} is not in:\n{page}"
        );
    }
}

fn source(kind: &str, state: SourceState, objects: usize, error: Option<&str>) -> Source {
    Source {
        source: "api".to_owned(),
        kind: kind.to_owned(),
        state,
        objects,
        since: "2026-01-01T03:16:40Z".parse().unwrap(),
        last_news: Some("2026-01-01T03:19:55Z".parse().unwrap()),
        error: error.map(str::to_owned),
        resource_version: Some("1234".to_owned()),
    }
}

#[test]
fn an_agent_that_runs_says_for_how_long_and_what_it_did_last() {
    let mut answer = answer();
    of(&mut answer).api_server = Some("https://10.96.0.1:443 (in-cluster)".to_owned());
    let page = page(&answer, false);
    says(
        &page,
        &[
            "node node-1: agent 0.1.0 runs for 3h20m (pid 4711, since 2026-01-01T00:00:00Z)",
            "last synchronised 12s ago: 3 writes in 1.2 ms; 128 times since the start",
            "asks the API server https://10.96.0.1:443 (in-cluster)",
            "14 service ports, 3 network policies, 0 pod interfaces, 0 network interfaces",
        ],
    );
}

#[test]
fn without_an_agent_it_says_since_when_and_whose_words_these_are() {
    let mut killed = answer();
    killed.running = false;
    killed.told_by = ToldBy::File;
    killed.last_word = Some("2026-01-01T03:19:48Z".parse().unwrap());
    says(
        &page(&killed, false),
        &[
            "no agent runs (that of pid 4711 did not end by itself; its last word is of \
             2026-01-01T03:19:48Z, 12s ago)",
            "nothing follows the cluster",
            "what follows is what the agent wrote 12s ago; tables and hooks are as the kernel has \
             them now",
        ],
    );
    of(&mut killed).ended = Some("2026-01-01T03:19:00Z".parse().unwrap());
    says(
        &page(&killed, false),
        &["no agent runs since 2026-01-01T03:19:00Z, 1m00s ago, when that of pid 4711 ended"],
    );
}

#[test]
fn without_an_agents_words_the_pins_speak() {
    let mut pinned = answer();
    pinned.running = false;
    pinned.told_by = ToldBy::Pins;
    pinned.pinned_tables = pinned.status.take().map(|status| status.tables);
    says(
        &page(&pinned, false),
        &[
            "no agent has run here: there is no /run/weir/status.json",
            "but tables are pinned (layout v4) at /bpf/weir",
            "FRONTENDS █░░░░░░░░░░░░░░░░░░░ <1% 28 65536",
            "nothing is attached",
        ],
    );
    pinned.running = true;
    pinned.silence = Some("no agent answers at /run/weir/weir.sock".to_owned());
    says(
        &page(&pinned, false),
        &["an agent runs and has not said anything yet: no agent answers at"],
    );
}

#[test]
fn kinds_of_a_source_that_are_alike_share_a_row() {
    let mut answer = answer();
    let forbidden = "list is forbidden: the role lacks networkpolicies";
    of(&mut answer).sources = vec![
        source("EndpointSlice", SourceState::Synced, 20, None),
        source("Namespace", SourceState::Synced, 0, None),
        source("NetworkPolicy", SourceState::Forbidden, 0, Some(forbidden)),
        source("Service", SourceState::Synced, 3, None),
        source("ServiceCIDR", SourceState::Absent, 0, None),
    ];
    says(
        &page(&answer, false),
        &[
            "api synced 3m20s 5s ago 20 EndpointSlice, 3 Service",
            "api forbidden 3m20s 5s ago NetworkPolicy: list is forbidden: the role lacks",
            "api absent 3m20s 5s ago ServiceCIDR",
        ],
    );
    says(
        &page(&answer, true),
        &["api Namespace synced 3m20s 5s ago 0 1234 -"],
    );
}

#[test]
fn the_fullest_tables_come_first_and_the_rest_are_counted() {
    let mut answer = answer();
    of(&mut answer).tables = (0..10)
        .map(|index| Table {
            name: format!("T{index}"),
            entries: index * 100,
            capacity: 900,
        })
        .collect();
    let narrow = page(&answer, false);
    says(
        &narrow,
        &[
            "T9 ████████████████████ 100% 900 (full) 900",
            "T8 ██████████████████░░ 89% 800 900",
            "and 4 more: weir status -o wide",
        ],
    );
    assert!(narrow.find("T9").unwrap() < narrow.find("T8").unwrap());
    assert!(!narrow.contains("T3"), "{narrow}");
    let wide = page(&answer, true);
    says(&wide, &["T3", "T0 ░░░░░░░░░░░░░░░░░░░░ 0% 0 900"]);
    assert!(!wide.contains("more: weir status"), "{wide}");
}

#[test]
fn a_bar_is_empty_or_full_only_where_the_table_is() {
    assert_eq!(bar(0.0), "░".repeat(BAR));
    assert!(bar(0.000_001).starts_with("█░"));
    assert!(bar(0.999_999).ends_with("█░"));
    assert_eq!(bar(1.0), "█".repeat(BAR));
    assert_eq!(bar(1.5), "█".repeat(BAR));
}

#[test]
fn interfaces_with_the_same_programs_are_one_row_and_half_ones_are_named() {
    let packet = |interface, hook: &str| PacketHook {
        interface,
        hook: hook.to_owned(),
        mode: "tcx".to_owned(),
        program: Some(77),
    };
    let mut answer = answer();
    answer.hooks = Hooks {
        sockets: ["connect4", "connect6"]
            .map(|program| SocketHook {
                program: program.to_owned(),
                cgroup: Some(1),
            })
            .into(),
        packets: vec![
            packet(3, "from_network"),
            packet(3, "to_network"),
            packet(5, "from_pod"),
            packet(5, "to_pod"),
            packet(6, "from_pod"),
            packet(6, "to_pod"),
            packet(7, "to_pod"),
            PacketHook {
                program: None,
                ..packet(8, "to_pod")
            },
        ],
        error: None,
    };
    let status = of(&mut answer);
    status.cgroup_root = Some("/sys/fs/cgroup".into());
    status.network_interfaces = vec![Interface {
        index: 3,
        name: "eth0".to_owned(),
    }];
    says(
        &page(&answer, false),
        &[
            "sockets connect4, connect6 /sys/fs/cgroup",
            "pods from_pod, to_pod (tcx) 2 interfaces",
            "pods to_pod (tcx) interface 7",
            "network from_network, to_network (tcx) eth0",
        ],
    );
    says(
        &page(&answer, true),
        &["3 eth0 from_network tcx 77", "8 - to_pod tcx gone"],
    );
}

#[test]
fn long_lists_of_complaints_are_cut_and_wide_ones_are_whole() {
    let mut answer = answer();
    let status = of(&mut answer);
    status.skipped = (0..40)
        .map(|index| Skipped {
            object: format!("Service shop/s{index}"),
            reason: "the table FRONTENDS is full".to_owned(),
        })
        .collect();
    status.recent_errors = vec![RecentError {
        at: "2026-01-01T03:15:00Z".parse().unwrap(),
        times: 3,
        message: "attach from_pod to veth3: no memory".to_owned(),
    }];
    let narrow = page(&answer, false);
    says(
        &narrow,
        &[
            "Left out",
            "Service shop/s5 the table FRONTENDS is full",
            "and 34 more: weir status -o wide",
            "5m00s ago 3 attach from_pod to veth3: no memory",
        ],
    );
    assert!(narrow.lines().count() < 50, "one screen:\n{narrow}");
    says(&page(&answer, true), &["Service shop/s39"]);
}

#[test]
fn pods_are_counted_by_what_is_known_of_them_and_the_unknown_are_named() {
    let interface = |index: u32, state: &str| PodInterface {
        index,
        name: format!("veth{index}"),
        pod: None,
        state: state.to_owned(),
        ingress: Vec::new(),
        egress: Vec::new(),
    };
    assert_eq!(pods_line(&[]), "0 pod interfaces");
    let states = ["unknown", "programmed", "isolated", "programmed"];
    let interfaces: Vec<PodInterface> = (1..)
        .zip(states)
        .map(|(index, state)| interface(index, state))
        .collect();
    assert_eq!(
        pods_line(&interfaces),
        "4 pod interfaces (2 programmed, 1 isolated (labels not known yet), 1 unknown)"
    );
    // The status of an agent before this one does not say.
    assert_eq!(pods_line(&[interface(1, "")]), "1 pod interfaces");

    let mut answer = answer();
    of(&mut answer).interfaces = interfaces;
    let narrow = page(&answer, false);
    says(&narrow, &["1 veth1 - unknown", "3 veth3 - isolated"]);
    assert!(!narrow.contains("veth2"), "{narrow}");
    says(&page(&answer, true), &["2 veth2 - programmed"]);
}

#[test]
fn a_clock_that_was_set_back_makes_no_age() {
    let then = "2026-01-01T03:20:05Z".parse().unwrap();
    assert_eq!(age(now(), then), "0s");
}
