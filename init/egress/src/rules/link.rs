//! The `netdev` egress chain of a physical link: what packet sockets send comes past no `inet` hook, but past this one.

use std::net::Ipv4Addr;

use crate::names::{JUDGED, frame, priority};
use crate::policy::{Ifname, Proto};
use crate::ruleset::{Rule, Ruleset, Set};
use crate::term::{ArpOperation, Network, Term, host};
use crate::wire::{BaseChain, ChainType, Family, Hook, Policy, SetType};

/// An Ethernet header and an ARP packet for IPv4 (14 + 28 bytes): nothing can ride behind it.
const ARP_FRAME: u32 = 42;

/// The set of our own addresses on a link.
pub(crate) fn own_addresses(link: &Ifname, kind: SetType) -> String {
    match kind {
        SetType::Ipv4 => format!("own4_{link}"),
        SetType::Ipv6 => format!("own6_{link}"),
    }
}

/// The set of gateways on a link.
pub(crate) fn gateways(link: &Ifname, kind: SetType) -> String {
    match kind {
        SetType::Ipv4 => format!("gateway4_{link}"),
        SetType::Ipv6 => format!("gateway6_{link}"),
    }
}

/// The `netdev` table of a link, as it is before the link has an address: only the DHCP child's frames pass, and without
/// `dhcp_mark` none. [`crate::Lock::set_own_addresses`] fills its sets.
pub fn link_ruleset(link: &Ifname, dhcp_mark: Option<u32>) -> Ruleset {
    let mut set = Ruleset::new(Family::Netdev, format!("casemate_{link}"));
    for kind in [SetType::Ipv4, SetType::Ipv6] {
        set.sets.push(Set::empty(own_addresses(link, kind), kind));
        set.sets.push(Set::empty(gateways(link, kind), kind));
    }
    let base = BaseChain {
        kind: ChainType::Filter,
        hook: Hook::Egress(link.to_string()),
        priority: priority::EGRESS,
        policy: Policy::Drop,
    };
    set.add("egress", Some(base), rules(link, dhcp_mark));
    set
}

fn rules(link: &Ifname, dhcp_mark: Option<u32>) -> Vec<Rule> {
    let own = |kind| own_addresses(link, kind);
    let gateway = |kind| gateways(link, kind);
    let arp = |operation| {
        vec![
            Term::ArpOfIpv4,
            Term::EtherType(Network::Arp.ether_type()),
            Term::FrameLength(ARP_FRAME),
            Term::ArpOperation(operation),
            Term::ArpSenderIn(own(SetType::Ipv4)),
        ]
    };
    // We ask for the gateway only; we answer anybody who asks for us.
    let mut request = arp(ArpOperation::Request);
    request.push(Term::ArpTargetIn(gateway(SetType::Ipv4)));
    let mut rules = vec![
        Rule::accept(request),
        Rule::accept(arp(ArpOperation::Reply)),
        Rule::drop([Term::Network(Network::Arp)], frame(link, "arp")),
    ];
    if let Some(mark) = dhcp_mark {
        let ports = || [Term::SourcePort(Proto::Udp, 68), Term::DestinationPort(Proto::Udp, 67)];
        let [source_port, destination_port] = ports();
        rules.push(Rule::accept([
            Term::Mark(mark),
            Term::Source(host(Ipv4Addr::UNSPECIFIED)),
            Term::Destination(host(Ipv4Addr::BROADCAST)),
            source_port,
            destination_port,
        ]));
        let [source_port, destination_port] = ports();
        rules.push(Rule::accept([
            Term::Mark(mark),
            Term::SourceIn(Network::Ipv4, own(SetType::Ipv4)),
            Term::Destination(host(Ipv4Addr::BROADCAST)),
            source_port,
            destination_port,
        ]));
    }
    rules.push(Rule::drop([Term::NotMark(JUDGED)], frame(link, "unjudged")));
    rules.push(Rule::accept([Term::SourceIn(Network::Ipv4, own(SetType::Ipv4))]));
    // Solicitation of the gateway, advertisement of ourselves; no other (RFC 4861 sections 4.3, 4.4).
    for (kind, target) in [(135, gateway(SetType::Ipv6)), (136, own(SetType::Ipv6))] {
        rules.push(Rule::accept([
            Term::SourceIn(Network::Ipv6, own(SetType::Ipv6)),
            Term::Icmp6Type(kind),
            Term::NeighbourIn(target),
        ]));
        rules.push(Rule::drop([Term::Icmp6Type(kind)], frame(link, "neighbour")));
    }
    rules.push(Rule::accept([Term::SourceIn(Network::Ipv6, own(SetType::Ipv6))]));
    rules.push(Rule::drop([Term::Network(Network::Ipv4)], frame(link, "source")));
    rules.push(Rule::drop([Term::Network(Network::Ipv6)], frame(link, "source")));
    rules.push(Rule::drop([], frame(link, "other")));
    rules
}
