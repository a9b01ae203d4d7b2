//! What comes in: by the link, by the services' interfaces, by loopback.

use ipnet::IpNet;

use super::{chain, from, lo};
use crate::names::{DNS_PORT, ICMP_ECHO, LOOPBACK, SERVICES, common, denied, flow, ipv6, spoofed};
use crate::policy::{Policy, Proto, Service, Tunnel};
use crate::ruleset::Rule;
use crate::term::{Network, State, Term, host, loopback6};

/// Types of ICMP errors about a flow: destination unreachable (with "fragmentation needed") and time exceeded (RFC 792).
pub(super) const ICMP_ERRORS: [u8; 2] = [3, 11];
/// The same of ICMPv6, with packet too big (RFC 4443 section 3).
const ICMP6_ERRORS: [u8; 3] = [1, 2, 3];
/// Neighbour solicitation and advertisement (RFC 4861 sections 4.3, 4.4).
pub(super) const NEIGHBOUR: [u8; 2] = [135, 136];

/// Before conntrack: no forged source gets as far as touching a flow's state.
pub(super) fn prerouting(policy: &Policy) -> Vec<Rule> {
    let link = || from(&policy.link);
    let mut rules = vec![
        Rule::accept([from(&lo())]),
        Rule::drop([link(), Term::Source(SERVICES.into())], common::LINK_SPOOFED),
        Rule::drop([link(), Term::Source(LOOPBACK.into())], common::LINK_SPOOFED),
    ];
    if let Some(tunnel) = &policy.tunnel {
        // Nobody on the link is a node, nor speaks to our address there.
        for net in private(tunnel) {
            rules.push(Rule::drop([link(), Term::Source(net)], common::LINK_SPOOFED));
            rules.push(Rule::drop([link(), Term::Destination(net)], common::LINK_SPOOFED));
        }
    }
    rules.push(Rule::accept([link()]));
    if let Some(tunnel) = &policy.tunnel {
        let tun = || from(&tunnel.interface);
        let names = host(tunnel.names);
        rules.push(Rule::drop([tun(), Term::Source(names)], common::TUNNEL_SPOOFED));
        rules.push(Rule::drop([tun(), Term::Destination(names)], common::TUNNEL_SPOOFED));
        for prefix in &tunnel.prefixes {
            rules.push(Rule::accept([tun(), Term::Source((*prefix).into())]));
        }
        rules.push(Rule::drop([tun()], common::TUNNEL_SPOOFED));
    }
    for service in &policy.services {
        let interface = || from(&Service::interface(service.number));
        rules.push(Rule::accept([interface(), Term::Source(host(Service::address(service.number)))]));
        rules.push(Rule::drop([interface(), Term::Network(Network::Ipv6)], ipv6(&service.name)));
        rules.push(Rule::drop([interface()], spoofed(&service.name)));
    }
    rules.push(Rule::drop([], common::UNKNOWN));
    rules
}

/// Addresses that only the private network has.
pub(super) fn private(tunnel: &Tunnel) -> impl Iterator<Item = IpNet> {
    tunnel.prefixes.iter().map(|prefix| IpNet::V4(*prefix)).chain([host(tunnel.names)])
}

pub(super) fn input(policy: &Policy) -> Vec<Rule> {
    let mut rules =
        vec![Rule::goto([from(&lo())], chain::LOOPBACK), Rule::goto([from(&policy.link)], chain::FROM_LINK)];
    if let Some(tunnel) = &policy.tunnel {
        rules.push(Rule::goto([from(&tunnel.interface)], chain::FROM_TUNNEL));
    }
    for service in &policy.services {
        let interface = || from(&Service::interface(service.number));
        rules.push(Rule::accept([
            interface(),
            Term::Source(host(Service::address(service.number))),
            Term::CtReply,
            Term::CtState(State::Established),
            Term::CtMarkAny(flow::BACKEND),
        ]));
        if let Some(tunnel) = &policy.tunnel {
            for proto in [Proto::Tcp, Proto::Udp] {
                rules.push(Rule::accept([
                    interface(),
                    Term::Source(host(Service::address(service.number))),
                    Term::Destination(host(tunnel.names)),
                    Term::DestinationPort(proto, DNS_PORT),
                    Term::CtOriginal,
                    Term::SetCtMark(flow::NAMES),
                ]));
            }
        }
        rules.push(Rule::drop([interface()], denied(&service.name)));
    }
    rules.push(Rule::drop([], common::UNKNOWN));
    rules
}

/// From the private network to us: the ports that the mesh serves, pings, replies and errors about our own flows. Who of the
/// network may send at all was the VPN process's to judge.
pub(super) fn from_tunnel(policy: &Policy) -> Vec<Rule> {
    let mut rules = vec![Rule::drop([Term::CtState(State::Invalid)], common::TUNNEL_INVALID)];
    rules.extend(served(policy));
    rules.push(Rule::accept([Term::IcmpType(ICMP_ECHO), Term::CtOriginal, Term::SetCtMark(flow::INBOUND)]));
    let ours = flow::OUTBOUND | flow::INBOUND;
    rules.push(Rule::accept([
        Term::CtReply,
        Term::CtState(State::Established),
        Term::CtMarkAny(flow::OUTBOUND),
    ]));
    let about_ours =
        |kind| Rule::accept([Term::IcmpType(kind), Term::CtState(State::Related), Term::CtMarkAny(ours)]);
    rules.extend(ICMP_ERRORS.map(about_ours));
    rules.push(Rule::drop([], common::TUNNEL_INBOUND));
    rules
}

/// The ports that the mesh serves.
fn served(policy: &Policy) -> Vec<Rule> {
    let mut rules = Vec::new();
    for &port in &policy.inbound {
        let port = || Term::DestinationPort(Proto::Tcp, port);
        rules.push(Rule::accept([
            port(),
            Term::TcpOpens,
            Term::CtState(State::New),
            Term::SetCtMark(flow::INBOUND),
        ]));
        rules.push(Rule::accept([
            port(),
            Term::CtOriginal,
            Term::CtState(State::Established),
            Term::CtMarkAny(flow::INBOUND),
        ]));
    }
    rules
}

/// Both ways: only between loopback's own addresses.
pub(super) fn loopback() -> Vec<Rule> {
    vec![
        Rule::accept([Term::Source(LOOPBACK.into()), Term::Destination(LOOPBACK.into())]),
        Rule::accept([Term::Source(loopback6()), Term::Destination(loopback6())]),
        Rule::drop([], common::LOOPBACK),
    ]
}

/// From the link to us: the ports that we serve, replies, errors about our own flows, neighbours, DHCP.
pub(super) fn from_link(policy: &Policy) -> Vec<Rule> {
    let mut rules = vec![Rule::drop([Term::CtState(State::Invalid)], common::LINK_INVALID)];
    rules.extend(served(policy));
    if let Some(tunnel) = &policy.tunnel {
        // Peers, relays and STUN servers may be anywhere; what they say is sealed or worthless.
        rules.push(Rule::accept([
            Term::Network(Network::Ipv4),
            Term::DestinationPort(Proto::Udp, tunnel.port),
            Term::CtOriginal,
            Term::SetCtMark(flow::INBOUND),
        ]));
    }
    rules.push(Rule::accept([
        Term::CtReply,
        Term::CtState(State::Established),
        Term::CtMarkAny(flow::OUTBOUND),
    ]));
    let ours = flow::OUTBOUND | flow::INBOUND;
    let errors = ICMP_ERRORS.map(Term::IcmpType).into_iter().chain(ICMP6_ERRORS.map(Term::Icmp6Type));
    let about_ours = |error| Rule::accept([error, Term::CtState(State::Related), Term::CtMarkAny(ours)]);
    rules.extend(errors.map(about_ours));
    rules.extend(NEIGHBOUR.map(|kind| Rule::accept([Term::Icmp6Type(kind), Term::Icmp6OnLink])));
    if policy.dhcp_mark.is_some() {
        // An offer may be broadcast, which conntrack cannot match with the request.
        rules.push(Rule::accept([
            Term::Network(Network::Ipv4),
            Term::SourcePort(Proto::Udp, 67),
            Term::DestinationPort(Proto::Udp, 68),
        ]));
    }
    rules.push(Rule::drop([], common::LINK_INBOUND));
    rules
}
