//! Single changes of policies, write by write. Whole clusters change in another crate.

use weir_ebpf::tables::{
    ANYONE, Cidr, Class, NOBODY, Pod, PodAddr, PodState, Policy, PolicyFlags, RuleKey, Slots,
};

use super::*;
use crate::maps::Write;

const ADDR: [u8; 4] = [10, 200, 0, 2];

fn peer() -> Addr {
    Addr::from(std::net::Ipv4Addr::from(ADDR))
}

fn range(bits: u32) -> Cidr {
    Cidr {
        prefix_len: 96 + bits,
        addr: Addr::from(std::net::Ipv4Addr::new(10, 0, 0, 0)),
    }
}

const fn class(number: u32) -> Class {
    Class(Slots::both(number))
}

fn pod(egress: u32, state: PodState) -> Pod {
    Pod {
        egress: Slots::both(egress),
        state,
        ..Pod::default()
    }
}

/// One pod of subject set 2, which may talk to class 7, in force under this revision.
fn contents(revision: u32) -> Contents {
    let mut contents = Contents::default();
    contents.pods.insert(10, pod(2, PodState::PROGRAMMED));
    contents.peers.insert(peer(), class(7));
    contents.peer_ranges.insert(range(8), class(5));
    contents.rules.insert(RuleKey::everything(2, 7), 1);
    contents.policy.revision = revision;
    contents
}

/// The plan, from tables under revision 4.
fn plan(change: impl Fn(&mut Contents)) -> Vec<Write> {
    let mut desired = contents(0);
    change(&mut desired);
    diff(&desired, &contents(4)).0
}

/// The revision is raised, and with it the epoch.
const fn policy(revision: u32, flags: PolicyFlags) -> Write {
    epoch(1, revision, flags)
}

const fn epoch(epoch: u16, revision: u32, flags: PolicyFlags) -> Write {
    Write::PutPolicy(Policy {
        revision,
        flags,
        epoch,
    })
}

#[test]
fn the_revision_alone_is_no_difference() {
    assert_eq!(plan(|_| {}), []);
}

#[test]
fn an_address_gets_another_class_when_the_revision_is_raised() {
    assert_eq!(
        plan(|desired| {
            desired.peers.insert(peer(), class(8));
            desired.rules.insert(RuleKey::everything(2, 8), 1);
        }),
        [
            Write::PutRule(RuleKey::everything(2, 8), 1),
            Write::PutPeer(peer(), Class(Slots([7, 8]))),
            policy(5, PolicyFlags::NONE),
            Write::PutPeer(peer(), class(8)),
        ]
    );
}

#[test]
fn an_address_that_goes_says_first_what_the_range_around_it_says() {
    assert_eq!(
        plan(|desired| {
            desired.peers.clear();
            desired.rules.clear();
        }),
        [
            Write::PutPeer(peer(), Class(Slots([7, 5]))),
            policy(5, PolicyFlags::NONE),
            Write::RemovePeer(peer()),
            Write::RemoveRule(RuleKey::everything(2, 7)),
        ]
    );
    // Where it is the same, nothing is judged otherwise.
    let plan = plan(|desired| {
        desired.peers.insert(
            Addr::from_v4_word(u32::from_ne_bytes([10, 1, 1, 1])),
            class(5),
        );
    });
    assert_eq!(plan.len(), 1);
}

#[test]
fn a_range_that_comes_says_first_what_was_said_around_it() {
    assert_eq!(
        plan(|desired| {
            desired.peer_ranges.insert(range(16), class(ANYONE));
        }),
        [
            Write::PutPeerRange(range(16), Class(Slots([5, ANYONE]))),
            policy(5, PolicyFlags::NONE),
            Write::PutPeerRange(range(16), class(ANYONE)),
        ]
    );
}

#[test]
fn an_interface_that_comes_is_one_write_and_one_that_goes_too_and_each_begins_an_epoch() {
    let new = pod(2, PodState::PROGRAMMED);
    let comes = plan(|desired| {
        desired.pods.insert(11, new);
    });
    let next = policy(4, PolicyFlags::NONE);
    assert_eq!(comes, [Write::PutPod(11, new), next.clone()]);
    let goes = plan(|desired| {
        desired.pods.clear();
        desired.rules.clear();
    });
    assert_eq!(
        goes,
        [
            Write::RemovePod(10),
            Write::RemoveRule(RuleKey::everything(2, 7)),
            next,
        ]
    );
}

#[test]
fn a_pod_that_becomes_known_is_never_open_between() {
    let mut actual = contents(4);
    actual.policy.flags = PolicyFlags::DENY_UNKNOWN;
    actual.pods.insert(10, pod(0, PodState::UNKNOWN));
    let mut desired = contents(0);
    desired.peers.clear();
    desired.rules.clear();
    let plan = diff(&desired, &actual).0;
    let at = |wanted: &Write| plan.iter().position(|write| write == wanted).unwrap();
    let known = at(&Write::PutPod(10, pod(2, PodState::PROGRAMMED)));
    assert!(at(&policy(5, PolicyFlags::DENY_UNKNOWN)) < known);
    let open = at(&epoch(2, 5, PolicyFlags::NONE));
    assert!(known < open);
    // What passed between by the flag is asked again.
    assert!(open < at(&epoch(3, 5, PolicyFlags::NONE)));
    assert_eq!(
        plan.iter()
            .filter(|write| matches!(write, Write::PutPod(..)))
            .count(),
        1
    );
}

#[test]
fn a_pod_that_is_no_longer_known_is_judged_as_the_flag_will_say() {
    for (flags, meanwhile) in [(PolicyFlags::DENY_UNKNOWN, NOBODY), (PolicyFlags::NONE, 0)] {
        let plan = plan(|desired| {
            desired.peers.insert(peer(), class(8));
            desired.pods.insert(10, pod(0, PodState::UNKNOWN));
            desired.policy.flags = flags;
        });
        let prepared = Pod {
            egress: Slots([2, meanwhile]),
            ingress: Slots([0, meanwhile]),
            state: PodState::PROGRAMMED,
            ..Pod::default()
        };
        assert!(plan.contains(&Write::PutPod(10, prepared)), "{plan:#?}");
    }
}

#[test]
fn what_somebody_else_allowed_is_removed_and_all_is_judged_again() {
    let mut actual = contents(4);
    actual.rules.insert(RuleKey::everything(2, ANYONE), 9);
    let of_nobody = RuleKey::everything(99, 7);
    actual.rules.insert(of_nobody, 9);
    assert_eq!(
        diff(&contents(0), &actual).0,
        [
            Write::RemoveRule(RuleKey::everything(2, ANYONE)),
            policy(5, PolicyFlags::NONE),
            Write::RemoveRule(of_nobody),
        ]
    );
}

#[test]
fn what_somebody_else_removed_is_there_again_and_all_is_judged_again() {
    let mut actual = contents(4);
    actual.rules.clear();
    assert_eq!(
        diff(&contents(0), &actual).0,
        [
            Write::PutRule(RuleKey::everything(2, 7), 1),
            policy(5, PolicyFlags::NONE),
        ]
    );
}

#[test]
fn the_revision_goes_on_beyond_its_end() {
    let mut actual = contents(u32::MAX);
    actual.peers.insert(peer(), class(8));
    let plan = diff(&contents(0), &actual).0;
    assert!(plan.contains(&policy(0, PolicyFlags::NONE)), "{plan:#?}");
    let mut reached = actual;
    for write in &plan {
        write.apply_to(&mut reached);
    }
    assert_eq!((reached.policy.revision, reached.policy.epoch), (0, 1));
    reached.policy.epoch = 0;
    assert_eq!(reached, contents(0));
}

fn own(interface: u32) -> PodAddr {
    PodAddr {
        interface,
        addr: peer(),
    }
}

#[test]
fn an_address_that_a_pod_loses_begins_an_epoch_and_one_that_it_gets_does_not() {
    let mut actual = contents(4);
    actual.pod_addrs.insert(own(10));
    assert_eq!(
        diff(&contents(0), &actual).0,
        [Write::RemovePodAddr(own(10)), policy(4, PolicyFlags::NONE),]
    );
    let gets = plan(|desired| {
        desired.pod_addrs.insert(own(10));
    });
    assert_eq!(gets, [Write::PutPodAddr(own(10))]);
}

#[test]
fn flags_begin_an_epoch() {
    let plan = plan(|desired| desired.policy.flags = PolicyFlags::NO_SOURCE_CHECK);
    assert_eq!(plan, [policy(4, PolicyFlags::NO_SOURCE_CHECK)]);
}

#[test]
fn the_epoch_goes_on_beyond_its_end() {
    let mut actual = contents(4);
    actual.policy.epoch = u16::MAX;
    actual.policy.flags = PolicyFlags::NO_SOURCE_CHECK;
    assert_eq!(
        diff(&contents(0), &actual).0,
        [epoch(0, 4, PolicyFlags::NONE)]
    );
}

/// Another pod at the interface, of which nothing but the address is another: it is judged as the
/// one before was, and may not go on as that one.
#[test]
fn a_pod_in_the_place_of_another_begins_an_epoch() {
    let new = Pod {
        addr_v4: peer(),
        ..pod(2, PodState::PROGRAMMED)
    };
    let plan = plan(|desired| {
        desired.pods.insert(10, new);
    });
    assert_eq!(plan, [Write::PutPod(10, new), policy(4, PolicyFlags::NONE)]);
}
