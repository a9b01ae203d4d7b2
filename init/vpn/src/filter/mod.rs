//! The packet filter: what peers may send us, decided as the Go client decides it (`wgengine/filter/filter.go`, `runIn`).
//!
//! Rules arrive from the coordinator as named lists and are compiled once per map. TCP is judged by its opening packet alone,
//! so an established connection outlives its rule; UDP and SCTP are judged packet by packet, by the rules or by the flows that
//! we began ourselves ([`FlowTable`]), so a revoked port falls silent at once. ICMP keeps no state: answers and errors pass,
//! a request needs a rule each time.

mod flows;
mod packet;
mod rules;

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use ipnet::IpNet;

pub use self::flows::FlowTable;
pub use self::packet::{Flow, Kind, Malformed};
pub use self::rules::{Compiled, FilterProblem, ProblemKind};

use self::rules::Family;

/// What peers may send us, compiled from the map's rules. The default denies everything.
///
/// Two filters that were compiled from equal rules are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    v4: Family<u32>,
    v6: Family<u128>,
    rules: usize,
}

/// What to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Hand it on.
    Accept,
    /// Drop it and count why.
    Drop(Reason),
}

/// Why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// It is no packet that we can judge: see [`Malformed`].
    Malformed,
    /// Its destination is a group.
    Multicast,
    /// Its destination is of the link.
    LinkLocal,
    /// Its destination is none of ours.
    NotOurs,
    /// No rule lets it in.
    NoRule,
}

impl Reason {
    /// All of them, in the order of [`Self::index`].
    pub const ALL: [Self; 5] =
        [Self::Malformed, Self::Multicast, Self::LinkLocal, Self::NotOurs, Self::NoRule];

    /// Its place in an array of counters.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Its name in the status and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Multicast => "multicast",
            Self::LinkLocal => "link-local",
            Self::NotOurs => "not-ours",
            Self::NoRule => "no-rule",
        }
    }
}

impl Filter {
    /// Nothing comes in, except answers to what we began.
    pub fn deny_all() -> Self {
        Self::default()
    }

    /// Whether one rule lets everybody reach everything, as a coordinator without a policy says it
    /// (`tailcfg.FilterAllowAll`; Headscale's answer to an absent policy).
    pub fn allow_all(&self) -> bool {
        self.v4.allows_all() || self.v6.allows_all()
    }

    /// How many rules it was compiled from.
    pub fn rules(&self) -> usize {
        self.rules
    }

    /// Judges a packet that a peer sent. That its source is one of the peer's own addresses was checked before.
    ///
    /// `local` are our own addresses and the routes that we serve; `now` is in seconds of a clock that never goes back,
    /// the same for all users of `flows`.
    pub fn inbound(&self, flow: &Flow, flows: &FlowTable, local: &[IpNet], now: u32) -> Verdict {
        let destination = flow.destination;
        // Most packets are for one of our two addresses: the rarer questions are asked only of the others.
        if !local.iter().any(|net| net.contains(&destination)) {
            return Verdict::Drop(Reason::NotOurs);
        }
        if destination.is_multicast() {
            return Verdict::Drop(Reason::Multicast);
        }
        if is_link_local(destination) {
            return Verdict::Drop(Reason::LinkLocal);
        }
        let admitted = match flow.kind {
            Kind::LaterFragment | Kind::Tsmp => true,
            Kind::Tcp { flags } => flags & TCP_SYN_ACK != TCP_SYN || self.admits(flow),
            Kind::Udp | Kind::Sctp => flows.inbound(flow, now, || self.admits(flow)),
            Kind::Icmp { kind, code } => is_icmp_answer(flow, kind, code) || self.admits(flow),
            Kind::Other => self.admits(flow),
        };
        if admitted { Verdict::Accept } else { Verdict::Drop(Reason::NoRule) }
    }

    /// Notes what we send. `now` counts from the start of the process: what a peer began before is not known then, and our reply
    /// comes first. Such a flow is the peer's if a rule lets it in, to a port where one waits to be asked: when the rule is gone,
    /// the flow is cut.
    pub fn outbound(&self, flow: &Flow, flows: &FlowTable, now: u32) {
        let is_theirs = || {
            now < flows::THEIRS_SECONDS && flow.source_port < EPHEMERAL_PORTS && self.admits(&flow.reversed())
        };
        flows.outbound(flow, now, is_theirs);
    }

    /// Whether a rule admits it, whatever flows there are.
    fn admits(&self, flow: &Flow) -> bool {
        match (flow.source, flow.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.v4.admits(flow, source.to_bits(), destination.to_bits())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.v6.admits(flow, source.to_bits(), destination.to_bits())
            }
            _ => false,
        }
    }
}

/// 169.254.0.0/16 and fe80::/10. The Go client excepts a cloud's resolver, 169.254.169.254: for what it sends, not for what we get.
fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// An echo reply or an error message; everything else of ICMP asks for something.
fn is_icmp_answer(flow: &Flow, kind: u8, code: u8) -> bool {
    match flow.destination {
        IpAddr::V4(_) => (kind == ICMP4_ECHO_REPLY && code == 0) || ICMP4_ERRORS.contains(&kind),
        IpAddr::V6(_) => (kind == ICMP6_ECHO_REPLY && code == 0) || ICMP6_ERRORS.contains(&kind),
    }
}

/// Where ports begin that who asks sends from (Linux `ip_local_port_range`).
const EPHEMERAL_PORTS: u16 = 32_768;
/// RFC 9293, section 3.1.
const TCP_SYN: u8 = 0x02;
/// SYN and ACK together: whoever sends both answers us.
const TCP_SYN_ACK: u8 = 0x12;
/// RFC 792.
const ICMP4_ECHO_REPLY: u8 = 0;
/// RFC 792: unreachable, time exceeded, parameter problem.
const ICMP4_ERRORS: [u8; 3] = [3, 11, 12];
/// RFC 4443, section 4.2.
const ICMP6_ECHO_REPLY: u8 = 129;
/// RFC 4443, section 3: unreachable, packet too big, time exceeded, parameter problem.
const ICMP6_ERRORS: [u8; 4] = [1, 2, 3, 4];
