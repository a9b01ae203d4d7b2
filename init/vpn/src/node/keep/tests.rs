#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on may panic")]

use std::os::unix::net::UnixDatagram;

use tracing::Level;

use super::super::tests::{BEAT, Lines, heard, kept, prefixes, report_socket};
use super::*;
use crate::netmap::RegionId;
use crate::parent::message::{Message, Standing};
use crate::parent::slots;

fn keeper(kept: Kept) -> (Keeper, Slots) {
    let memory = slots::create().unwrap();
    let other = Slots::new(memory.try_clone().unwrap()).unwrap();
    (Keeper::new(Slots::new(memory).unwrap(), kept), other)
}

#[test]
fn a_parent_that_reads_nothing_for_ten_seconds_holds_nobody_up_and_then_hears_what_holds() {
    let (ours, parent) = report_socket();
    // Beats are what fills it: they go on whatever we do.
    let beats = UnixDatagram::from(ours.try_clone().unwrap());
    let requests = Requests::new(ours);
    let start = Instant::now();
    let (mut keeper, slots) = keeper(kept(1));
    let mut told = Told::default();
    let report = |peers| Report { standing: Standing::Running, peers, ..Report::default() };
    told.tell(start, report(1), &requests);
    assert_eq!(heard(&parent), [Message::Report(report(1))]);
    while beats.send(BEAT).is_ok() {}

    // The node's clock, not ours: nothing of this may wait.
    for second in 1..=10 {
        let now = start + Duration::from_secs(second);
        keeper.kept.stamp = second;
        keeper.write(now, &requests).unwrap();
        keeper.write_if_due(now, &requests);
        told.tell(now, report(u32::try_from(second).unwrap()), &requests);
        let stamp = Kept::decode(&slots.read().unwrap(), &prefixes()).unwrap().stamp;
        assert_eq!(stamp, second, "what is to be kept is, whoever reads");
        assert!(keeper.due().is_some_and(|due| due > now && due <= now + DELAY), "it is tried again, later");
    }
    assert!(heard(&parent).is_empty(), "nothing found room");

    let now = start + Duration::from_secs(11);
    keeper.write_if_due(now, &requests);
    told.tell(now, report(10), &requests);
    assert_eq!(heard(&parent), [Message::Kept, Message::Report(report(10))], "once, and the latest");
    assert_eq!(keeper.due(), None);
    let soon = now + Duration::from_secs(1);
    keeper.write_if_due(soon, &requests);
    told.tell(soon, report(10), &requests);
    assert!(heard(&parent).is_empty(), "it knows");
    told.tell(now + REPORT, report(10), &requests);
    assert_eq!(heard(&parent).len(), 1, "now and then it hears it all the same");
}

#[test]
fn a_parent_that_is_gone_is_warned_of_and_not_asked_for_ever() {
    let (ours, parent) = report_socket();
    drop(parent);
    let requests = Requests::new(ours);
    let (mut keeper, slots) = keeper(kept(1));
    keeper.write(Instant::now(), &requests).unwrap();
    assert!(slots.read().is_some());
    assert_eq!(keeper.due(), None);
}

#[test]
fn a_map_of_fifty_thousand_peers_leaves_the_identity_and_is_warned_of_once() {
    let warnings = Lines::up_to(Level::WARN);
    let (ours, _parent) = report_socket();
    let requests = Requests::new(ours);
    let (mut keeper, slots) = keeper(kept(50_000));
    let small = kept(1).map;
    let now = Instant::now();
    tracing::subscriber::with_default(warnings.clone(), || {
        for second in 0..5 {
            keeper.kept.stamp = second;
            keeper.write(now, &requests).unwrap();
            let bytes = slots.read().unwrap();
            assert!(bytes.len() < 4096, "{} bytes without the map", bytes.len());
            let found = Kept::decode(&bytes, &prefixes()).unwrap();
            assert!(found.map.is_none() && found.paths.is_empty());
            assert_eq!((found.stamp, found.home), (second, Some(RegionId(999))));
            assert_eq!(found.node.secret.public(), keeper.kept.node.secret.public());
        }
        assert_eq!(warnings.said().len(), 1, "once");
        assert_eq!(keeper.kept.paths.len(), 1024, "in force they are still");
        // One that fits again, and then again one that does not: that is news.
        let large = std::mem::replace(&mut keeper.kept.map, small);
        keeper.write(now, &requests).unwrap();
        assert!(slots.read().unwrap().len() > 4096);
        keeper.kept.map = large;
        keeper.write(now, &requests).unwrap();
        assert_eq!(warnings.said().len(), 2);
    });
}

#[test]
fn a_map_of_ten_thousand_peers_is_kept_as_it_is() {
    let (ours, _parent) = report_socket();
    let (mut keeper, slots) = keeper(kept(10_000));
    keeper.write(Instant::now(), &Requests::new(ours)).unwrap();
    // The next time it may wait: it is a lot to write.
    let now = Instant::now();
    keeper.touch(now);
    assert!(keeper.due().is_some_and(|due| due > now + 32 * DELAY && due < now + 120 * DELAY));
    let found = Kept::decode(&slots.read().unwrap(), &prefixes()).unwrap();
    assert_eq!(found.paths, keeper.kept.paths);
    let (found, was) = (found.map.unwrap(), keeper.kept.map.unwrap());
    assert_eq!((&found.node, &found.peers), (&was.node, &was.peers));
}
