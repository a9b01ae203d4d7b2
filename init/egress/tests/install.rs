//! The lock as an object: it reads back as it was meant, another implementation reads the same, and it belongs to us.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed assertion is what a test is for")]

mod support;

use casemate_egress::{Allow, Lock, LockError, Mode, Proto, link_ruleset, ruleset};
use support::{Bench, Netns, link, policy};

fn modes() -> [Mode; 3] {
    let allow = Allow { cidr: "10.9.0.0/30".parse().unwrap(), port: 443, proto: Proto::Tcp };
    let one = Allow { cidr: "203.0.113.9/32".parse().unwrap(), port: 853, proto: Proto::Udp };
    [Mode::InternalOnly, Mode::Allowlist(vec![allow, one]), Mode::ExternalAllowed]
}

#[test]
fn every_mode_reads_back_as_meant() {
    for mode in modes() {
        let Some(mut bench) = Bench::new(&policy(mode)) else { return };
        bench.lock.verify().unwrap();
        println!("{}", bench.guest.command("nft", &["-n", "-y", "list", "ruleset"]));
    }
}
