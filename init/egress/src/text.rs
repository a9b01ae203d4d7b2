//! Rule sets as text, in the language of nft(8): for people, and for tests that compare.

use std::fmt::{Display, Formatter, Result};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::policy::Proto;
use crate::ruleset::{Chain, Rule, Ruleset, Set};
use crate::term::{ArpOperation, Network, State, Term};
use crate::wire::{BaseChain, Family, Hook, Policy, SetType, Verdict};

impl Display for Ruleset {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let family = match self.family {
            Family::Inet => "inet",
            Family::Netdev => "netdev",
        };
        writeln!(f, "table {family} {} {{", self.table)?;
        writeln!(f, "\tflags owner{}", if self.persist { ",persist" } else { "" })?;
        for counter in &self.counters {
            writeln!(f, "\tcounter {counter} {{ }}")?;
        }
        for set in &self.sets {
            write!(f, "{set}")?;
        }
        for chain in &self.chains {
            write!(f, "{chain}")?;
        }
        writeln!(f, "}}")
    }
}

impl Display for Set {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let kind = match self.kind {
            SetType::Ipv4 => "ipv4_addr",
            SetType::Ipv6 => "ipv6_addr",
        };
        writeln!(f, "\n\tset {} {{\n\t\ttype {kind}", self.name)?;
        if !self.elements.is_empty() {
            let elements: Vec<_> = self.elements.iter().map(IpAddr::to_string).collect();
            writeln!(f, "\t\telements = {{ {} }}", elements.join(", "))?;
        }
        writeln!(f, "\t}}")
    }
}

impl Display for Chain {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        writeln!(f, "\n\tchain {} {{", self.name)?;
        if let Some(base) = &self.base {
            writeln!(f, "\t\t{base}")?;
        }
        for rule in &self.rules {
            writeln!(f, "\t\t{rule}")?;
        }
        writeln!(f, "\t}}")
    }
}

impl Display for BaseChain {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "type {} hook ", self.kind.name())?;
        match &self.hook {
            Hook::Prerouting => write!(f, "prerouting")?,
            Hook::Input => write!(f, "input")?,
            Hook::Forward => write!(f, "forward")?,
            Hook::Output => write!(f, "output")?,
            Hook::Postrouting => write!(f, "postrouting")?,
            Hook::Egress(device) => write!(f, "egress device \"{device}\"")?,
        }
        let policy = match self.policy {
            Policy::Drop => "drop",
            Policy::Accept => "accept",
        };
        write!(f, " priority {}; policy {policy};", self.priority)
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let terms = self.terms.iter().map(Term::to_string);
        let words: Vec<_> = terms.chain(self.verdict.iter().map(Verdict::to_string)).collect();
        f.write_str(&words.join(" "))
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Drop => write!(f, "drop"),
            Self::Accept => write!(f, "accept"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

/// A prefix, or a bare address where it is one host.
fn prefix(net: &IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.trunc().to_string() }
}

const fn family(net: &IpNet) -> &'static str {
    match net {
        IpNet::V4(_) => "ip",
        IpNet::V6(_) => "ip6",
    }
}

impl Display for Network {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Ipv4 => "ip",
            Self::Ipv6 => "ip6",
            Self::Arp => "arp",
        })
    }
}

impl Display for Proto {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl Display for State {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Invalid => "invalid",
            Self::Established => "established",
            Self::Related => "related",
            Self::New => "new",
        })
    }
}

impl Display for Term {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::MadeHere => write!(f, "iif 0"),
            Self::InputInterface(name) => write!(f, "iifname \"{name}\""),
            Self::OutputInterface(name) => write!(f, "oifname \"{name}\""),
            Self::NotOutputInterface(name) => write!(f, "oifname != \"{name}\""),
            Self::Network(network) => write!(f, "meta protocol {network}"),
            Self::Source(net) => write!(f, "{} saddr {}", family(net), prefix(net)),
            Self::NotSource(address) => write!(f, "ip saddr != {address}"),
            Self::Destination(net) => write!(f, "{} daddr {}", family(net), prefix(net)),
            Self::SourceIn(network, set) => write!(f, "{network} saddr @{set}"),
            Self::DestinationIn(set) => write!(f, "ip daddr @{set}"),
            Self::Transport(number) => write!(f, "meta l4proto {number}"),
            Self::SourcePort(proto, port) => write!(f, "{proto} sport {port}"),
            Self::DestinationPort(proto, port) => write!(f, "{proto} dport {port}"),
            Self::TcpOpens => write!(f, "tcp flags & (fin | syn | rst | ack) == syn"),
            Self::IcmpType(kind) => write!(f, "icmp type {kind}"),
            Self::Icmp6Type(kind) => write!(f, "icmpv6 type {kind}"),
            Self::Icmp6OnLink => write!(f, "ip6 hoplimit 255"),
            Self::NeighbourIn(set) => write!(f, "icmpv6 taddr @{set}"),
            Self::HasSocket => write!(f, "meta skuid >= 0"),
            Self::SocketUid(uid) => write!(f, "meta skuid {uid}"),
            Self::Mark(mark) => write!(f, "meta mark {mark:#010x}"),
            Self::NotMark(mark) => write!(f, "meta mark != {mark:#010x}"),
            Self::CtState(state) => write!(f, "ct state {state}"),
            Self::CtOriginal => write!(f, "ct direction original"),
            Self::CtReply => write!(f, "ct direction reply"),
            Self::CtMarkAny(bits) => write!(f, "ct mark & {bits:#010x} != 0x00000000"),
            Self::EtherType(kind) => write!(f, "ether type {kind:#06x}"),
            Self::ArpOfIpv4 => write!(f, "arp htype 1 arp ptype 0x0800 arp hlen 6 arp plen 4"),
            Self::ArpOperation(ArpOperation::Request) => write!(f, "arp operation request"),
            Self::ArpOperation(ArpOperation::Reply) => write!(f, "arp operation reply"),
            Self::ArpSenderIn(set) => write!(f, "arp saddr ip @{set}"),
            Self::ArpTargetIn(set) => write!(f, "arp daddr ip @{set}"),
            Self::FrameLength(bytes) => write!(f, "meta length {bytes}"),
            Self::SetCtMark(mark) => write!(f, "ct mark set {mark:#010x}"),
            Self::SetMark(mark) => write!(f, "meta mark set {mark:#010x}"),
            Self::Count(name) => write!(f, "counter name \"{name}\""),
            Self::DestinationIsLocal => write!(f, "fib daddr type local"),
            Self::Masquerade(None) => write!(f, "masquerade"),
            Self::Masquerade(Some((low, high))) => write!(f, "masquerade to :{low}-{high} fully-random"),
        }
    }
}
