//! A private network's interface on a machine of which we know nothing else: the network's addresses are behind that interface
//! and nowhere else.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{from, lo};
use crate::names::priority;
use crate::policy::Ifname;
use crate::ruleset::{Rule, Ruleset};
use crate::term::Term;
use crate::wire::{BaseChain, ChainType, Family, Hook, Policy};

/// Counts what comes in another way in the name of a node of the network.
const SPOOFED: &str = "spoofed";
/// Counts what comes in another way for our own address in the network, or for the place where names are asked for.
const BESIDE: &str = "beside";

/// The `inet` table that keeps others on this machine's links from speaking as nodes of the network, or to what listens at its
/// addresses only: the kernel takes a packet for any of its addresses on any link.
///
/// It judges what comes in before anything translates addresses or knows a flow, so that a published port of a container is kept too.
/// What only passes through is not touched, but in the name of a node: a container may speak to the network through this machine. The
/// table goes with the [`crate::Lock`] that installed it.
pub fn guard_ruleset(interface: &Ifname, prefixes: &[IpNet], names: &[IpAddr]) -> Ruleset {
    let mut set = Ruleset::new(Family::Inet, format!("casemate_{interface}"));
    set.persist = false;
    let base = BaseChain {
        kind: ChainType::Filter,
        hook: Hook::Prerouting,
        priority: priority::RAW,
        policy: Policy::Accept,
    };
    let mut rules = vec![Rule::accept([from(interface)]), Rule::accept([from(&lo())])];
    rules.extend(prefixes.iter().map(|net| Rule::drop([Term::Source(*net)], SPOOFED)));
    let names = names.iter().map(|address| IpNet::from(*address));
    let ours = prefixes.iter().copied().chain(names);
    rules.extend(ours.map(|net| Rule::drop([Term::Destination(net), Term::DestinationIsLocal], BESIDE)));
    set.add("prerouting", Some(base), rules);
    set
}
