//! What our own processes and our own kernel send: `output`, and again `postrouting`.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::from_outside::{ICMP_ERRORS, NEIGHBOUR, private};
use super::{chain, lo, to};
use crate::names::{DNS_PORT, ICMP_ECHO_REPLY, JUDGED, LOGIN_SERVER, NEVER, NTP_PORT, flow, process};
use crate::policy::{LoginServer, Policy, Proto, Service, Tunnel};
use crate::ruleset::Rule;
use crate::term::{Network, State, Term, host, protocol};

pub(super) fn output() -> Vec<Rule> {
    vec![Rule::jump([], chain::DHCP), Rule::goto([], chain::OUR_OWN)]
}

/// Judges everything that leaves a second time, and marks it as judged for the link's own chain. DHCP keeps its mark.
pub(super) fn postrouting(policy: &Policy) -> Vec<Rule> {
    let mut rules = vec![Rule::jump([Term::MadeHere], chain::DHCP), Rule::then([Term::SetMark(JUDGED)])];
    // The kernel's own neighbour discovery shows this hook the link as the interface it came in by (`ndisc_alloc_skb`,
    // net/ipv6/ndisc.c, sets the device). A forwarded packet cannot have hop limit 255.
    rules.extend(neighbours(policy));
    rules.extend([Rule::goto([Term::MadeHere], chain::OUR_OWN), Rule::goto([], chain::FORWARDED)]);
    rules
}

/// For whom, the link's own chain decides: it knows the gateway.
fn neighbours(policy: &Policy) -> impl Iterator<Item = Rule> {
    let rule = |kind| Rule::accept([to(&policy.link), Term::Icmp6Type(kind), Term::Icmp6OnLink]);
    NEIGHBOUR.into_iter().map(rule)
}

/// The DHCP child's socket, known by its mark: PID 1 opened it. Everything that the client sends, renewals too, goes to
/// everybody on the link, so that neither it nor a server's word can name another destination.
pub(super) fn dhcp(policy: &Policy) -> Vec<Rule> {
    let rule = |mark| {
        Rule::accept([
            to(&policy.link),
            Term::Mark(mark),
            Term::Destination(host(Ipv4Addr::BROADCAST)),
            Term::SourcePort(Proto::Udp, 68),
            Term::DestinationPort(Proto::Udp, 67),
        ])
    };
    policy.dhcp_mark.into_iter().map(rule).collect()
}

/// First who it is, then what it may do.
pub(super) fn our_own(policy: &Policy) -> Vec<Rule> {
    let mut rules =
        vec![Rule::goto([to(&lo())], chain::LOOPBACK), Rule::goto([Term::HasSocket], chain::SOCKETS)];
    // From here on there is no socket that anybody holds: resets, acknowledgements in TIME_WAIT, what a closed socket
    // has left to send, and the kernel's own ICMP. Only for flows that were allowed.
    rules.extend(astray(policy, "none"));
    rules.push(Rule::accept([
        to(&policy.link),
        Term::Transport(protocol::TCP),
        Term::CtState(State::Established),
        Term::CtMarkAny(flow::OUTBOUND | flow::INBOUND),
    ]));
    if let Some(tunnel) = &policy.tunnel {
        let tun = || to(&tunnel.interface);
        rules.push(Rule::accept([
            tun(),
            Term::Transport(protocol::TCP),
            Term::CtState(State::Established),
            Term::CtMarkAny(flow::OUTBOUND | flow::INBOUND),
        ]));
        // Pings are answered by the kernel.
        rules.push(Rule::accept([
            tun(),
            Term::IcmpType(ICMP_ECHO_REPLY),
            Term::CtReply,
            Term::CtMarkAny(flow::INBOUND),
        ]));
    }
    for service in &policy.services {
        let there = || {
            let destination = Term::Destination(host(Service::address(service.number)));
            [to(&Service::interface(service.number)), destination]
        };
        let [out, destination] = there();
        rules.push(Rule::accept([
            out,
            destination,
            Term::Transport(protocol::TCP),
            Term::CtState(State::Established),
            Term::CtMarkAny(flow::BACKEND | if policy.tunnel.is_some() { flow::NAMES } else { 0 }),
        ]));
        // "Fragmentation needed" about what the service itself sends to the outside.
        for kind in ICMP_ERRORS {
            let [out, destination] = there();
            let related = Term::CtState(State::Related);
            rules.push(Rule::accept([
                out,
                destination,
                Term::IcmpType(kind),
                related,
                Term::CtMarkAny(flow::SERVICE),
            ]));
        }
    }
    rules.extend(neighbours(policy));
    rules.push(Rule::drop([], process("none")));
    rules
}

/// What is meant for the private network and would go by the link: a flow that was allowed through the TUN goes on when the route
/// there is gone, and then takes the way of everything else.
fn astray(policy: &Policy, who: &str) -> impl Iterator<Item = Rule> {
    let nets = policy.tunnel.iter().flat_map(private);
    nets.map(move |net| Rule::drop([to(&policy.link), Term::Destination(net)], process(who)))
}

/// By who created the socket.
pub(super) fn sockets(policy: &Policy) -> Vec<Rule> {
    let uids = policy.uids;
    let silent = [
        (uids.agent, "agent"),
        (uids.vpn, "vpn"),
        (uids.vpc, "vpc"),
        (uids.dhcp, "dhcp"),
        // PID 1 sends nothing; a socket that it opened for somebody has a mark, and was judged before.
        (0, "init"),
    ];
    let mut rules = vec![
        Rule::goto([Term::SocketUid(uids.mesh)], chain::MESH),
        Rule::goto([Term::SocketUid(uids.time)], chain::TIME),
    ];
    if policy.tunnel.is_some() {
        rules.push(Rule::goto([Term::SocketUid(uids.vpn)], chain::VPN));
    }
    let silent = silent.into_iter().filter(|(uid, _)| policy.tunnel.is_none() || *uid != uids.vpn);
    rules.extend(silent.map(|(uid, name)| Rule::drop([Term::SocketUid(uid)], process(name))));
    rules.push(Rule::drop([], process("other")));
    rules
}

/// The measured targets and PCCS on the link, the measured ports of services, and answers on the ports that it serves.
pub(super) fn mesh(policy: &Policy) -> Vec<Rule> {
    let mut rules: Vec<Rule> = astray(policy, "mesh").collect();
    for target in &policy.mesh_targets {
        let address = target.ip().to_canonical();
        let tunnel = policy.tunnel.as_ref().filter(|tunnel| tunnel.contains(address));
        rules.push(Rule::accept([
            to(tunnel.map_or(&policy.link, |tunnel| &tunnel.interface)),
            Term::Destination(host(address)),
            Term::DestinationPort(Proto::Tcp, target.port()),
            Term::CtOriginal,
            Term::SetCtMark(flow::OUTBOUND),
        ]));
    }
    for backend in &policy.backends {
        let ours: Ipv4Addr = Service::our_address(backend.service);
        rules.push(Rule::accept([
            to(&Service::interface(backend.service)),
            Term::Source(host(IpAddr::V4(ours))),
            Term::Destination(host(Service::address(backend.service))),
            Term::DestinationPort(Proto::Tcp, backend.port),
            Term::CtOriginal,
            Term::SetCtMark(flow::BACKEND),
        ]));
    }
    let tunnel = policy.tunnel.as_ref().map(|tunnel| &tunnel.interface);
    for interface in [&policy.link].into_iter().chain(tunnel) {
        for &port in &policy.inbound {
            rules.push(Rule::accept([
                to(interface),
                Term::SourcePort(Proto::Tcp, port),
                Term::CtReply,
                Term::CtMarkAny(flow::INBOUND),
            ]));
        }
    }
    rules.push(Rule::drop([], process("mesh")));
    rules
}

/// On the link: TCP to the coordination server, to resolvers and, on the relays' ports, to anywhere: the coordinator says where relays
/// are, and what it says opens nothing for anybody else. UDP from its one port to anywhere but port 53, which peers, relays and STUN
/// servers have no use for; answers there. Never to what is no place outside, nor to the private network
/// itself. On the TUN: questions about names, to other nodes. To services: answers about names.
pub(super) fn vpn(policy: &Policy, tunnel: &Tunnel) -> Vec<Rule> {
    let (link, tun) = (|| to(&policy.link), || to(&tunnel.interface));
    let opens = || [Term::CtOriginal, Term::SetCtMark(flow::OUTBOUND)];
    let mut rules = Vec::new();
    for service in &policy.services {
        for proto in [Proto::Tcp, Proto::Udp] {
            rules.push(Rule::accept([
                to(&Service::interface(service.number)),
                Term::Source(host(tunnel.names)),
                Term::Destination(host(Service::address(service.number))),
                Term::SourcePort(proto, DNS_PORT),
                Term::CtReply,
                Term::CtMarkAny(flow::NAMES),
            ]));
        }
    }
    for prefix in &tunnel.prefixes {
        for proto in [Proto::Tcp, Proto::Udp] {
            let [original, mark] = opens();
            let there = Term::Destination((*prefix).into());
            rules.push(Rule::accept([tun(), there, Term::DestinationPort(proto, DNS_PORT), original, mark]));
        }
    }
    let never = NEVER.map(IpNet::V4).into_iter().chain(private(tunnel));
    rules.extend(never.map(|net| Rule::drop([Term::Destination(net)], process("vpn"))));
    rules.push(Rule::drop([Term::DestinationPort(Proto::Udp, DNS_PORT)], process("vpn")));
    let (server, port) = match tunnel.login_server {
        LoginServer::At(server) => (Term::Destination(host(server.ip().to_canonical())), server.port()),
        LoginServer::Named { port } => {
            // A connection that stands outlives what its name meant when it was opened.
            rules.push(Rule::accept([
                link(),
                Term::DestinationPort(Proto::Tcp, port),
                Term::CtOriginal,
                Term::CtState(State::Established),
                Term::CtMarkAny(flow::OUTBOUND),
            ]));
            (Term::DestinationIn(LOGIN_SERVER.to_owned()), port)
        }
    };
    let [original, mark] = opens();
    rules.push(Rule::accept([link(), server, Term::DestinationPort(Proto::Tcp, port), original, mark]));
    for resolver in &tunnel.resolvers {
        let [original, mark] = opens();
        let there = Term::Destination(host(resolver.ip().to_canonical()));
        let port = Term::DestinationPort(Proto::Tcp, resolver.port());
        rules.push(Rule::accept([link(), there, port, original, mark]));
    }
    let ours = || [Term::Network(Network::Ipv4), Term::SourcePort(Proto::Udp, tunnel.port)];
    let relay = |port: &u16| [Term::Network(Network::Ipv4), Term::DestinationPort(Proto::Tcp, *port)];
    for first in tunnel.relay_ports.iter().map(relay).chain([ours()]) {
        let ([network, port], [original, mark]) = (first, opens());
        rules.push(Rule::accept([link(), network, port, original, mark]));
    }
    let [network, port] = ours();
    rules.push(Rule::accept([link(), network, port, Term::CtReply, Term::CtMarkAny(flow::INBOUND)]));
    rules.push(Rule::drop([], process("vpn")));
    rules
}

/// The named servers: their key exchange by TCP, and NTP by UDP to the same addresses. Nothing comes in but answers. None of
/// them is in the private network, which is joined when there is a time.
pub(super) fn time(policy: &Policy) -> Vec<Rule> {
    let mut rules: Vec<Rule> = astray(policy, "time").collect();
    for server in &policy.time_servers {
        for (proto, port) in [(Proto::Tcp, server.port()), (Proto::Udp, NTP_PORT)] {
            rules.push(Rule::accept([
                to(&policy.link),
                Term::Destination(host(server.ip().to_canonical())),
                Term::DestinationPort(proto, port),
                Term::CtOriginal,
                Term::SetCtMark(flow::OUTBOUND),
            ]));
        }
    }
    rules.push(Rule::drop([], process("time")));
    rules
}
