//! What services send to the outside, what comes back to them: `forward`, again `postrouting`, and translation.

use super::from_outside::ICMP_ERRORS;
use super::{chain, from, service_chain, to};
use crate::names::{DNS_PORT, MASQUERADE_PORTS, NEVER, common, denied, flow, invalid, spoofed};
use crate::policy::{Allow, Mode, Policy, Proto, Service};
use crate::ruleset::Rule;
use crate::term::{State, Term, host};

/// By where it came in.
pub(super) fn forwarded(policy: &Policy) -> Vec<Rule> {
    let mut rules = vec![Rule::goto([from(&policy.link)], chain::LINK_TO_SERVICES)];
    let by_interface = |s: &Service| Rule::goto([from(&Service::interface(s.number))], service_chain(s));
    rules.extend(policy.services.iter().map(by_interface));
    rules.push(Rule::drop([], common::UNKNOWN));
    rules
}

/// From one service: to the outside as the mode says; never to another service.
pub(super) fn service(policy: &Policy, service: &Service) -> Vec<Rule> {
    let name = &service.name;
    let mut rules = vec![
        // Prerouting has dropped these; a rule here costs nothing and does not rely on it.
        Rule::drop([Term::NotSource(Service::address(service.number))], spoofed(name)),
        Rule::drop([Term::NotOutputInterface(policy.link.clone())], denied(name)),
    ];
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

/// From the link to services: replies to flows that a service was allowed to open, and errors about them.
pub(super) fn link_to_services(policy: &Policy) -> Vec<Rule> {
    let mut rules = Vec::new();
    if policy.mode != Mode::InternalOnly {
        for service in &policy.services {
            let reply = |kind: Option<Term>, state| {
                let mut terms = vec![
                    to(&Service::interface(service.number)),
                    Term::Destination(host(Service::address(service.number))),
                ];
                terms.extend(kind);
                terms.extend([Term::CtReply, Term::CtState(state), Term::CtMarkAny(flow::SERVICE)]);
                Rule::accept(terms)
            };
            rules.push(reply(None, State::Established));
            rules.extend(ICMP_ERRORS.map(|kind| reply(Some(Term::IcmpType(kind)), State::Related)));
        }
    }
    rules.push(Rule::drop([], common::LINK_FORWARD));
    rules
}

/// Services leave with the link's address.
pub(super) fn source_translation(policy: &Policy) -> Vec<Rule> {
    let mut rules = Vec::new();
    if policy.mode != Mode::InternalOnly {
        for service in &policy.services {
            let rule = |transport: Option<u8>, ports| {
                let mut terms = vec![
                    from(&Service::interface(service.number)),
                    to(&policy.link),
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
