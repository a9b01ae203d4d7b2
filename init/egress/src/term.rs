//! Terms: the vocabulary of the rules, one meaning each, and the instructions that carry it out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

use crate::policy::{Ifname, Proto};
use crate::ruleset::Rule;
use crate::wire::{Base, CmpOp, CtKey, Expression, Family, MetaKey, Register};

/// One condition or action of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Term {
    /// The packet came in through no interface: it was made here.
    MadeHere,
    InputInterface(Ifname),
    OutputInterface(Ifname),
    NotOutputInterface(Ifname),
    /// The network protocol.
    Network(Network),
    Source(IpNet),
    NotSource(Ipv4Addr),
    Destination(IpNet),
    /// The destination is one of this machine's own addresses, on whatever link.
    DestinationIsLocal,
    /// Source address in a set.
    SourceIn(Network, String),
    /// IPv4 destination address in a set.
    DestinationIn(String),
    /// The transport protocol by number.
    Transport(u8),
    SourcePort(Proto, u16),
    DestinationPort(Proto, u16),
    /// Of FIN, SYN, RST and ACK only SYN: the first packet of a connection.
    TcpOpens,
    IcmpType(u8),
    Icmp6Type(u8),
    /// IPv6 hop limit 255: not forwarded by anyone (RFC 4861 section 7.1).
    Icmp6OnLink,
    /// The target of a neighbour solicitation or advertisement is in a set (RFC 4861 sections 4.3, 4.4: offset 8).
    NeighbourIn(String),
    /// The packet has a socket with an owner at all.
    HasSocket,
    /// Who created the socket.
    SocketUid(u32),
    Mark(u32),
    NotMark(u32),
    CtState(State),
    CtOriginal,
    CtReply,
    /// The flow carries at least one of these bits.
    CtMarkAny(u32),
    /// The frame's own type field, whatever the sender claims.
    EtherType(u16),
    /// Ethernet and IPv4 ARP (RFC 826: hardware 1, protocol 0x0800, lengths 6 and 4).
    ArpOfIpv4,
    ArpOperation(ArpOperation),
    /// Sender protocol address (offset 14).
    ArpSenderIn(String),
    /// Target protocol address (offset 24).
    ArpTargetIn(String),
    /// The whole frame in bytes, its Ethernet header included.
    FrameLength(u32),
    SetCtMark(u32),
    SetMark(u32),
    Count(String),
    /// The link's own address, and a random port of these if the protocol has ports.
    Masquerade(Option<(u16, u16)>),
}

/// A network protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Network {
    Ipv4,
    Ipv6,
    Arp,
}

/// A state of conntrack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// `NF_CT_STATE_INVALID_BIT`; the others are `NF_CT_STATE_BIT` of `enum ip_conntrack_info`.
    Invalid = 1,
    Established = 2,
    Related = 4,
    New = 8,
}

/// RFC 826 `ar$op`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ArpOperation {
    Request = 1,
    Reply = 2,
}

/// IP protocol numbers (IANA).
pub(crate) mod protocol {
    pub(crate) const ICMP: u8 = 1;
    pub(crate) const TCP: u8 = 6;
    pub(crate) const UDP: u8 = 17;
    pub(crate) const ICMP6: u8 = 58;
}

/// `IFNAMSIZ`: names are compared whole, with their padding.
const NAME: usize = 16;
/// `IP_CT_DIR_ORIGINAL` and `IP_CT_DIR_REPLY` (linux/netfilter/nf_conntrack_tuple_common.h).
const ORIGINAL: u8 = 0;
const REPLY: u8 = 1;
/// `NF_NAT_RANGE_PROTO_SPECIFIED` and `NF_NAT_RANGE_PROTO_RANDOM_FULLY` (linux/netfilter/nf_nat.h).
const NAT_PORTS: u32 = 0x2;
const NAT_RANDOM: u32 = 0x10;
/// `RTN_LOCAL` (linux/rtnetlink.h).
const LOCAL: u32 = 2;
/// TCP flags (RFC 9293 section 3.1): FIN, SYN, RST, ACK.
const TCP_FLAGS: u8 = 0x17;
const TCP_SYN: u8 = 0x02;

impl Network {
    /// `NFPROTO_IPV4`, `NFPROTO_IPV6`; the `inet` hooks see no ARP.
    const fn nfproto(self) -> u8 {
        match self {
            Self::Ipv4 => 2,
            Self::Ipv6 => 10,
            Self::Arp => 3,
        }
    }

    /// IEEE 802 type.
    pub(crate) const fn ether_type(self) -> u16 {
        match self {
            Self::Ipv4 => 0x0800,
            Self::Ipv6 => 0x86dd,
            Self::Arp => 0x0806,
        }
    }
}

impl Proto {
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Tcp => protocol::TCP,
            Self::Udp => protocol::UDP,
        }
    }
}

/// Turns the terms of one rule into instructions, each protocol checked once before the first field of it is read.
#[derive(Debug)]
pub(crate) struct Compiler {
    family: Family,
    network: Option<Network>,
    transport: Option<u8>,
    out: Vec<Expression>,
}

impl Compiler {
    pub(crate) fn rule(family: Family, rule: &Rule) -> Vec<Expression> {
        let mut compiler = Self { family, network: None, transport: None, out: Vec::new() };
        for term in &rule.terms {
            compiler.term(term);
        }
        compiler.out.extend(rule.verdict.clone().map(Expression::Verdict));
        compiler.out
    }

    fn term(&mut self, term: &Term) {
        match term {
            Term::MadeHere => self.meta(MetaKey::InputIndex, &0u32.to_ne_bytes()),
            Term::InputInterface(name) => self.meta(MetaKey::InputName, &padded(name)),
            Term::OutputInterface(name) => self.meta(MetaKey::OutputName, &padded(name)),
            Term::NotOutputInterface(name) => {
                self.load_meta(MetaKey::OutputName);
                self.compare(CmpOp::NotEqual, &padded(name));
            }
            Term::Network(network) => self.network(*network),
            Term::Source(net) => self.address(*net, CmpOp::Equal, 12, 8),
            Term::Destination(net) => self.address(*net, CmpOp::Equal, 16, 24),
            Term::DestinationIsLocal => {
                self.out.push(Expression::DestinationType { to: Register::R1 });
                self.compare(CmpOp::Equal, &LOCAL.to_ne_bytes());
            }
            Term::NotSource(address) => self.address(Ipv4Net::from(*address).into(), CmpOp::NotEqual, 12, 8),
            Term::SourceIn(Network::Ipv6, set) => self.lookup(Network::Ipv6, Base::Network, 8, 16, set),
            Term::SourceIn(network, set) => self.lookup(*network, Base::Network, 12, 4, set),
            Term::DestinationIn(set) => self.lookup(Network::Ipv4, Base::Network, 16, 4, set),
            Term::Transport(number) => self.transport(*number),
            Term::SourcePort(proto, port) => self.port(*proto, 0, *port),
            Term::DestinationPort(proto, port) => self.port(*proto, 2, *port),
            Term::TcpOpens => {
                self.transport(protocol::TCP);
                self.load(Base::Transport, 13, 1);
                self.mask(&[TCP_FLAGS]);
                self.compare(CmpOp::Equal, &[TCP_SYN]);
            }
            Term::IcmpType(kind) => self.icmp(Network::Ipv4, protocol::ICMP, *kind),
            Term::Icmp6Type(kind) => self.icmp(Network::Ipv6, protocol::ICMP6, *kind),
            Term::Icmp6OnLink => {
                self.network(Network::Ipv6);
                self.load(Base::Network, 7, 1);
                self.compare(CmpOp::Equal, &[255]);
            }
            Term::NeighbourIn(set) => self.lookup(Network::Ipv6, Base::Transport, 8, 16, set),
            Term::HasSocket => {
                self.load_meta(MetaKey::SocketUid);
                // True for every uid; what it tests is that there is one: without a socket the load ends the rule.
                self.compare(CmpOp::AtLeast, &0u32.to_ne_bytes());
            }
            Term::SocketUid(uid) => self.meta(MetaKey::SocketUid, &uid.to_ne_bytes()),
            Term::Mark(mark) => self.meta(MetaKey::Mark, &mark.to_ne_bytes()),
            Term::NotMark(mark) => {
                self.load_meta(MetaKey::Mark);
                self.compare(CmpOp::NotEqual, &mark.to_ne_bytes());
            }
            Term::CtState(state) => self.ct_any(CtKey::State, *state as u32),
            Term::CtOriginal => self.ct(CtKey::Direction, &[ORIGINAL]),
            Term::CtReply => self.ct(CtKey::Direction, &[REPLY]),
            Term::CtMarkAny(bits) => self.ct_any(CtKey::Mark, *bits),
            Term::EtherType(kind) => {
                self.load(Base::Link, 12, 2);
                self.compare(CmpOp::Equal, &kind.to_be_bytes());
            }
            Term::ArpOfIpv4 => {
                self.network(Network::Arp);
                self.load(Base::Network, 0, 6);
                self.compare(CmpOp::Equal, &[0, 1, 8, 0, 6, 4]);
            }
            Term::ArpOperation(operation) => {
                self.network(Network::Arp);
                self.load(Base::Network, 6, 2);
                self.compare(CmpOp::Equal, &(*operation as u16).to_be_bytes());
            }
            Term::ArpSenderIn(set) => self.lookup(Network::Arp, Base::Network, 14, 4, set),
            Term::ArpTargetIn(set) => self.lookup(Network::Arp, Base::Network, 24, 4, set),
            Term::FrameLength(bytes) => self.meta(MetaKey::Length, &bytes.to_ne_bytes()),
            Term::SetCtMark(mark) => {
                self.out.push(Expression::Load { to: Register::R1, value: mark.to_ne_bytes().to_vec() });
                self.out.push(Expression::SetCt { key: CtKey::Mark, from: Register::R1 });
            }
            Term::SetMark(mark) => {
                self.out.push(Expression::Load { to: Register::R1, value: mark.to_ne_bytes().to_vec() });
                self.out.push(Expression::SetMeta { key: MetaKey::Mark, from: Register::R1 });
            }
            Term::Count(name) => self.out.push(Expression::Counter(name.clone())),
            Term::Masquerade(ports) => self.masquerade(*ports),
        }
    }

    fn network(&mut self, network: Network) {
        if self.network.replace(network) == Some(network) {
            return;
        }
        match self.family {
            Family::Inet => self.meta(MetaKey::Nfproto, &[network.nfproto()]),
            Family::Netdev => self.meta(MetaKey::Protocol, &network.ether_type().to_be_bytes()),
        }
    }

    fn transport(&mut self, number: u8) {
        if self.transport.replace(number) != Some(number) {
            self.meta(MetaKey::L4proto, &[number]);
        }
    }

    fn address(&mut self, net: IpNet, op: CmpOp, offset4: u32, offset6: u32) {
        let (network, offset) = match net {
            IpNet::V4(_) => (Network::Ipv4, offset4),
            IpNet::V6(_) => (Network::Ipv6, offset6),
        };
        let bytes = |address: IpAddr| match address {
            IpAddr::V4(a) => a.octets().to_vec(),
            IpAddr::V6(a) => a.octets().to_vec(),
        };
        self.network(network);
        self.load(Base::Network, offset, if network == Network::Ipv4 { 4 } else { 16 });
        if net.prefix_len() < net.max_prefix_len() {
            self.mask(&bytes(net.netmask()));
        }
        self.compare(op, &bytes(net.network()));
    }

    fn port(&mut self, proto: Proto, offset: u32, port: u16) {
        self.transport(proto.number());
        self.load(Base::Transport, offset, 2);
        self.compare(CmpOp::Equal, &port.to_be_bytes());
    }

    fn icmp(&mut self, network: Network, number: u8, kind: u8) {
        self.network(network);
        self.transport(number);
        self.load(Base::Transport, 0, 1);
        self.compare(CmpOp::Equal, &[kind]);
    }

    fn lookup(&mut self, network: Network, base: Base, offset: u32, length: u32, set: &str) {
        self.network(network);
        self.load(base, offset, length);
        self.out.push(Expression::Lookup { set: set.to_owned(), register: Register::R1 });
    }

    fn masquerade(&mut self, ports: Option<(u16, u16)>) {
        let Some((low, high)) = ports else {
            self.out.push(Expression::Masquerade { flags: 0, ports: None });
            return;
        };
        self.out.push(Expression::Load { to: Register::R1, value: low.to_be_bytes().to_vec() });
        self.out.push(Expression::Load { to: Register::R2, value: high.to_be_bytes().to_vec() });
        let ports = Some((Register::R1, Register::R2));
        self.out.push(Expression::Masquerade { flags: NAT_PORTS | NAT_RANDOM, ports });
    }

    fn meta(&mut self, key: MetaKey, value: &[u8]) {
        self.load_meta(key);
        self.compare(CmpOp::Equal, value);
    }

    fn load_meta(&mut self, key: MetaKey) {
        self.out.push(Expression::Meta { key, to: Register::R1 });
    }

    fn ct(&mut self, key: CtKey, value: &[u8]) {
        self.out.push(Expression::Ct { key, to: Register::R1 });
        self.compare(CmpOp::Equal, value);
    }

    fn ct_any(&mut self, key: CtKey, bits: u32) {
        self.out.push(Expression::Ct { key, to: Register::R1 });
        self.mask(&bits.to_ne_bytes());
        self.compare(CmpOp::NotEqual, &[0; 4]);
    }

    fn load(&mut self, base: Base, offset: u32, length: u32) {
        self.out.push(Expression::Payload { base, offset, length, to: Register::R1 });
    }

    fn mask(&mut self, mask: &[u8]) {
        self.out.push(Expression::Mask { register: Register::R1, mask: mask.to_vec() });
    }

    fn compare(&mut self, op: CmpOp, value: &[u8]) {
        self.out.push(Expression::Compare { register: Register::R1, op, value: value.to_vec() });
    }
}

/// An interface name as the kernel keeps it. [`Ifname`] is at most 15 bytes long.
fn padded(name: &Ifname) -> [u8; NAME] {
    let mut bytes = [0; NAME];
    for (to, from) in bytes.iter_mut().zip(name.as_str().bytes()) {
        *to = from;
    }
    bytes
}

/// One host.
pub(crate) fn host(address: impl Into<IpAddr>) -> IpNet {
    address.into().into()
}

/// `::1`.
pub(crate) fn loopback6() -> IpNet {
    host(Ipv6Addr::LOCALHOST)
}
