//! What services send to the outside, what comes back to them: `forward`, again `postrouting`, and translation.

use super::from_outside::{ICMP_ERRORS, private};
use super::{chain, from, service_chain, to};
use crate::names::{DNS_PORT, MASQUERADE_PORTS, NEVER, common, denied, flow, invalid, spoofed};
use crate::policy::{Allow, Ifname, Mode, Policy, Proto, Service, Tunnel};
use crate::ruleset::Rule;
use crate::term::{State, Term, host};

/// By where it came in.
pub(super) fn forwarded(policy: &Policy) -> Vec<Rule> {
    let mut rules = vec![Rule::goto([from(&policy.link)], chain::LINK_TO_SERVICES)];
    let by_interface = |s: &Service| Rule::goto([from(&Service::interface(s.number))], service_chain(s));
    rules.extend(policy.services.iter().map(by_interface));
    if let Some(tunnel) = &policy.tunnel {
        rules.push(Rule::goto([from(&tunnel.interface)], chain::TUNNEL_TO_SERVICES));
    }
    rules.push(Rule::drop([], common::UNKNOWN));
    rules
}

/// From one service: to the outside as the mode says; never to another service.
pub(super) fn service(policy: &Policy, service: &Service) -> Vec<Rule> {
    let name = &service.name;
    let mut rules = vec![
        // Prerouting has dropped these; a rule here costs nothing and does not rely on it.
        Rule::drop([Term::NotSource(Service::address(service.number))], spoofed(name)),
    ];
    if let Some(tunnel) = &policy.tunnel {
        rules.extend(to_the_private_network(tunnel, service));
    }
    rules.push(Rule::drop([Term::NotOutputInterface(policy.link.clone())], denied(name)));
    if policy.mode != Mode::InternalOnly {
        // A packet that conntrack does not follow would leave with the service's own address.
        rules.push(Rule::drop([Term::CtState(State::Invalid)], invalid(name)));
        let never = NEVER.map(|net| Rule::drop([Term::Destination(net.into())], denied(name)));
        let dns = [Proto::Tcp, Proto::Udp]
            .map(|proto| Rule::drop([Term::DestinationPort(proto, DNS_PORT)], denied(name)));
        rules.extend(never);
        rules.extend(dns);
    }
    let source = || Term::Source(host(Service::address(service.number)));
    let opens = || [Term::CtOriginal, Term::SetCtMark(flow::SERVICE)];
    match &policy.mode {
        Mode::InternalOnly => {}
        Mode::Allowlist(list) => {
            for &Allow { cidr, port, proto } in list {
                let [original, mark] = opens();
                let to_there = [Term::Destination(cidr), Term::DestinationPort(proto, port)];
                let [destination, port] = to_there;
                rules.push(Rule::accept([source(), destination, port, original, mark]));
            }
        }
        Mode::ExternalAllowed => {
            let [original, mark] = opens();
            rules.push(Rule::accept([source(), original, mark]));
        }
    }
    rules.push(Rule::drop([], denied(name)));
    rules
}

/// In every mode: to the network's addresses by the TUN and by nothing else, but for other nodes' DNS.
fn to_the_private_network(tunnel: &Tunnel, service: &Service) -> Vec<Rule> {
    let name = &service.name;
    let tun = || to(&tunnel.interface);
    // A packet that conntrack does not follow would leave with the service's own address.
    let mut rules = vec![Rule::drop([tun(), Term::CtState(State::Invalid)], invalid(name))];
    let dns = |proto| Rule::drop([tun(), Term::DestinationPort(proto, DNS_PORT)], denied(name));
    rules.extend([Proto::Tcp, Proto::Udp].map(dns));
    for prefix in &tunnel.prefixes {
        rules.push(Rule::accept([
            tun(),
            Term::Source(host(Service::address(service.number))),
            Term::Destination((*prefix).into()),
            Term::CtOriginal,
            Term::SetCtMark(flow::SERVICE),
        ]));
    }
    // Before there is an address, and so a route, they would go where everything else goes.
    rules.extend(private(tunnel).map(|net| Rule::drop([Term::Destination(net)], denied(name))));
    rules
}

/// From the TUN to services: replies, as from the link.
pub(super) fn tunnel_to_services(policy: &Policy) -> Vec<Rule> {
    let mut rules: Vec<Rule> = policy.services.iter().flat_map(replies).collect();
    rules.push(Rule::drop([], common::TUNNEL_FORWARD));
    rules
}

/// Replies to flows that a service was allowed to open, and errors about them.
fn replies(service: &Service) -> Vec<Rule> {
    let reply = |kind: Option<Term>, state| {
        let mut terms = vec![
            to(&Service::interface(service.number)),
            Term::Destination(host(Service::address(service.number))),
        ];
        terms.extend(kind);
        terms.extend([Term::CtReply, Term::CtState(state), Term::CtMarkAny(flow::SERVICE)]);
        Rule::accept(terms)
    };
    let mut rules = vec![reply(None, State::Established)];
    rules.extend(ICMP_ERRORS.map(|kind| reply(Some(Term::IcmpType(kind)), State::Related)));
    rules
}

/// From the link to services: replies to flows that a service was allowed to open, and errors about them.
pub(super) fn link_to_services(policy: &Policy) -> Vec<Rule> {
    let mut rules = Vec::new();
    if policy.mode != Mode::InternalOnly {
        rules.extend(policy.services.iter().flat_map(replies));
    }
    rules.push(Rule::drop([], common::LINK_FORWARD));
    rules
}

/// Services leave with the address of the link or of the node.
pub(super) fn source_translation(policy: &Policy) -> Vec<Rule> {
    let mut out: Vec<&Ifname> = Vec::new();
    out.extend(policy.tunnel.as_ref().map(|tunnel| &tunnel.interface));
    out.extend((policy.mode != Mode::InternalOnly).then_some(&policy.link));
    let mut rules = Vec::new();
    for service in &policy.services {
        for interface in &out {
            let rule = |transport: Option<u8>, ports| {
                let mut terms = vec![
                    from(&Service::interface(service.number)),
                    to(interface),
                    Term::Source(host(Service::address(service.number))),
                ];
                terms.extend(transport.map(Term::Transport));
                terms.push(Term::Masquerade(ports));
                Rule::then(terms)
            };
            for proto in [Proto::Tcp, Proto::Udp] {
                rules.push(rule(Some(proto.number()), Some(MASQUERADE_PORTS)));
            }
            rules.push(rule(None, None));
        }
    }
    rules
}
