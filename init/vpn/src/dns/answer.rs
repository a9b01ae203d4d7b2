//! The answer to one query: bytes in, bytes out, nothing else.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::{A, AAAA, PTR, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use ipnet::IpNet;

use super::peers::Peers;
use super::zone::{Found, Zone};

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram: the answer may have to be cut.
    Udp,
    /// On a connection.
    Tcp,
}

/// What to do with a query.
#[derive(Clone, Debug)]
#[must_use]
pub enum Answer {
    /// Send this back.
    Reply {
        /// The message.
        message: Vec<u8>,
        /// What to count.
        outcome: Outcome,
    },
    /// Ask a resolver.
    Forward(Box<Forward>),
    /// Say nothing: it is no query.
    Ignore,
}

/// What to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered from the map.
    Answered,
    /// Refused here.
    Refused,
    /// Not understood, or not answered.
    Failed,
}

/// A query for somebody else.
#[derive(Clone, Debug)]
pub struct Forward {
    /// Whom to ask, in this order; never empty.
    pub upstreams: Arc<[SocketAddr]>,
    /// The query to send, without an identity, and without options of the asker's.
    pub query: Message,
    /// Its one question.
    pub question: Query,
    /// What holds of those who are asked, if they are peers.
    pub(super) peers: Option<Peers>,
    asked: Asked,
}

/// What an answer must keep of its query.
#[derive(Clone, Debug)]
struct Asked {
    id: u16,
    limit: usize,
    recursion_desired: bool,
    checking_disabled: bool,
    question: Option<Query>,
    /// Whether the asker knows EDNS, and its DO bit.
    edns: Option<bool>,
}

/// Answers a query.
pub fn answer(query: &[u8], zone: &Zone, transport: Transport) -> Answer {
    // The counts are looked at before anything is set aside for them.
    let Some(&[id_high, id_low, flags, _, counts @ ..]) = query.first_chunk::<12>() else {
        return Answer::Ignore;
    };
    if flags & QUERY_RESPONSE != 0 {
        return Answer::Ignore;
    }
    let mut asked = Asked {
        id: u16::from_be_bytes([id_high, id_low]),
        limit: if transport == Transport::Tcp { usize::from(u16::MAX) } else { MIN_UDP },
        recursion_desired: flags & 1 != 0,
        checking_disabled: false,
        question: None,
        edns: None,
    };
    let op_code = OpCode::from_u8((flags >> 3) & 0x0f);
    if op_code != OpCode::Query {
        return asked.error_of(op_code, ResponseCode::NotImp);
    }
    // One question (RFC 9619), and behind it an OPT record and a signature at most.
    if query.len() > MAX_QUERY || flags & TRUNCATED != 0 || !matches!(counts, [0, 1, 0, 0, 0, 0, 0, 0..=2]) {
        return asked.error(ResponseCode::FormErr);
    }
    let Ok(message) = Message::from_vec(query) else { return asked.error(ResponseCode::FormErr) };
    let Some(question) = message.queries.first() else { return asked.error(ResponseCode::FormErr) };
    asked.checking_disabled = message.metadata.checking_disabled;
    asked.question = Some(question.clone());
    if let Some(edns) = &message.edns {
        asked.edns = Some(edns.flags().dnssec_ok);
        if transport == Transport::Udp {
            asked.limit = usize::from(edns.max_payload()).clamp(MIN_UDP, MAX_UDP);
        }
        if edns.version() != 0 {
            return asked.error(ResponseCode::BADVERS);
        }
    }
    if question.query_class() != DNSClass::IN
        || matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR | RecordType::OPT)
    {
        return asked.refuse(None);
    }
    asked.look_up(zone, question)
}

impl Asked {
    fn look_up(&self, zone: &Zone, question: &Query) -> Answer {
        let name = question.name();
        if let Some(answer) = self.reverse(zone, question) {
            return answer;
        }
        let (upstreams, peers) = match zone.find(name) {
            Found::Here(addresses) => {
                return self.of_base(zone, ResponseCode::NoError, address_records(question, addresses));
            }
            Found::Apex => {
                let soa = matches!(question.query_type(), RecordType::SOA | RecordType::ANY);
                return self.of_base(
                    zone,
                    ResponseCode::NoError,
                    if soa { vec![authority(name)] } else { Vec::new() },
                );
            }
            Found::Nowhere => return self.of_base(zone, ResponseCode::NXDomain, Vec::new()),
            Found::Elsewhere(upstreams) => (upstreams, None),
            Found::AtPeers(upstreams) => (upstreams, Some(zone.peers())),
        };
        if zone.policy().internal_only {
            return self.refuse(Some(PROHIBITED));
        }
        // A name without a dot is for a search list; nobody outside hears of our hosts' short names. A host has addresses, and
        // browsers ask for its service with them (RFC 9460): what else is asked of one label is asked of a top-level domain, and to deny
        // that would deny all below it (RFC 8020).
        let of_hosts = [RecordType::A, RecordType::AAAA, RecordType::HTTPS, RecordType::SVCB];
        let host = of_hosts.contains(&question.query_type());
        if host && name.iter().count() == 1 {
            return self.reply(ResponseCode::NXDomain, Vec::new(), None, Outcome::Answered, None);
        }
        if upstreams.is_empty() {
            return self.refuse(None);
        }
        let mut query = Message::new(0, MessageType::Query, OpCode::Query);
        query.metadata.recursion_desired = true;
        query.metadata.checking_disabled = self.checking_disabled;
        query.add_query(question.clone());
        if let Some(dnssec_ok) = self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_UDP_U16).set_dnssec_ok(dnssec_ok);
            query.set_edns(edns);
        }
        Answer::Forward(Box::new(Forward {
            upstreams: Arc::clone(upstreams),
            query,
            question: question.clone(),
            peers,
            asked: self.clone(),
        }))
    }

    /// Names of the tailnet's own addresses; `None` for any other.
    fn reverse(&self, zone: &Zone, question: &Query) -> Option<Answer> {
        let name = question.name();
        let (net, below) = reverse_net(name)?;
        if !zone.policy().prefixes.iter().any(|prefix| prefix.contains(&net)) {
            return None;
        }
        let whole = net.prefix_len() == net.max_prefix_len();
        let owner = zone.reverse(net.addr()).filter(|_| whole && !below);
        let code =
            if below || whole && owner.is_none() { ResponseCode::NXDomain } else { ResponseCode::NoError };
        let wanted = matches!(question.query_type(), RecordType::PTR | RecordType::ANY);
        let record = owner
            .filter(|_| wanted)
            .map(|owner| Record::from_rdata(name.clone(), TTL, RData::PTR(PTR(owner))));
        let labels = match net.addr() {
            IpAddr::V4(_) => REVERSE_LABELS_V4,
            IpAddr::V6(_) => REVERSE_LABELS_V6,
        };
        let apex = name.trim_to(labels);
        let own = matches!(question.query_type(), RecordType::SOA | RecordType::ANY) && apex == *name;
        let records = record.or_else(|| own.then(|| authority(name))).into_iter().collect();
        Some(self.reply(code, records, Some(&apex), Outcome::Answered, None))
    }

    fn of_base(&self, zone: &Zone, code: ResponseCode, records: Vec<Record>) -> Answer {
        self.reply(code, records, zone.base_name(), Outcome::Answered, None)
    }

    fn refuse(&self, extended: Option<u16>) -> Answer {
        self.reply(ResponseCode::Refused, Vec::new(), None, Outcome::Refused, extended)
    }

    fn error(&self, code: ResponseCode) -> Answer {
        self.error_of(OpCode::Query, code)
    }

    fn error_of(&self, op_code: OpCode, code: ResponseCode) -> Answer {
        self.finish(self.message(op_code, code, None), Outcome::Failed)
    }

    /// An answer; without records it names the authority that says so (RFC 2308).
    fn reply(
        &self,
        code: ResponseCode,
        records: Vec<Record>,
        zone: Option<&Name>,
        outcome: Outcome,
        extended: Option<u16>,
    ) -> Answer {
        let mut message = self.message(OpCode::Query, code, extended);
        message.metadata.authoritative = zone.is_some();
        if let Some(zone) = zone.filter(|_| records.is_empty()) {
            message.add_authority(authority(zone));
        }
        message.add_answers(records);
        self.finish(message, outcome)
    }

    fn message(&self, op_code: OpCode, code: ResponseCode, extended: Option<u16>) -> Message {
        let mut message = Message::new(self.id, MessageType::Response, op_code);
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.checking_disabled = self.checking_disabled;
        message.metadata.recursion_available = true;
        message.metadata.response_code = code;
        message.add_queries(self.question.iter().cloned());
        if let Some(dnssec_ok) = self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_UDP_U16).set_dnssec_ok(dnssec_ok);
            if let Some(extended) = extended {
                edns.options_mut()
                    .insert(EdnsOption::Unknown(EXTENDED_ERROR, extended.to_be_bytes().to_vec()));
            }
            message.set_edns(edns);
        }
        message
    }

    fn finish(&self, message: Message, outcome: Outcome) -> Answer {
        self.encode(message).map_or(Answer::Ignore, |message| Answer::Reply { message, outcome })
    }

    /// The bytes; an answer that is too long goes without its records, so that the asker comes back by TCP.
    fn encode(&self, mut message: Message) -> Option<Vec<u8>> {
        let bytes = message.to_vec().ok()?;
        if bytes.len() <= self.limit {
            return Some(bytes);
        }
        message.metadata.truncation = true;
        message.answers.clear();
        message.authorities.clear();
        message.additionals.clear();
        message.to_vec().ok()
    }
}

impl Forward {
    /// What a resolver said, made the answer to our asker's query. The caller has checked that it answers the question.
    pub(super) fn finish(&self, mut reply: Vec<u8>) -> Vec<u8> {
        if reply.len() > self.asked.limit {
            return self.truncated();
        }
        if let Some([id_high, id_low, _, flags]) = reply.first_chunk_mut::<4>() {
            [*id_high, *id_low] = self.asked.id.to_be_bytes();
            // Nobody here has checked a signature.
            *flags &= !AUTHENTIC_DATA;
        }
        reply
    }

    fn truncated(&self) -> Vec<u8> {
        let mut message = self.asked.message(OpCode::Query, ResponseCode::NoError, None);
        message.metadata.truncation = true;
        message.to_vec().unwrap_or_default()
    }

    /// The answer if no resolver gave one.
    pub(super) fn failure(&self) -> Vec<u8> {
        self.asked
            .message(OpCode::Query, ResponseCode::ServFail, Some(NO_REACHABLE_AUTHORITY))
            .to_vec()
            .unwrap_or_default()
    }
}

/// Which addresses a reverse name is about, and whether it is a name below theirs: services are looked for there (RFC 6763 section 11).
fn reverse_net(name: &Name) -> Option<(IpNet, bool)> {
    if !name.iter().next_back().is_some_and(|top| top.eq_ignore_ascii_case(b"arpa")) {
        return None;
    }
    let names = std::iter::successors(Some(name.clone()), |name| (!name.is_root()).then(|| name.base_name()));
    names.enumerate().find_map(|(labels, name)| Some((name.parse_arpa_name().ok()?, labels > 0)))
}

fn address_records(question: &Query, addresses: &[IpAddr]) -> Vec<Record> {
    let (v4, v6) = match question.query_type() {
        RecordType::A => (true, false),
        RecordType::AAAA => (false, true),
        RecordType::ANY => (true, true),
        _ => (false, false),
    };
    let record = |data| Record::from_rdata(question.name().clone(), TTL, data);
    addresses
        .iter()
        .filter_map(|address| match *address {
            IpAddr::V4(address) if v4 => Some(record(RData::A(A(address)))),
            IpAddr::V6(address) if v6 => Some(record(RData::AAAA(AAAA(address)))),
            _ => None,
        })
        .collect()
}

/// Who says that there is nothing. The times are for secondaries, which do not exist.
fn authority(zone: &Name) -> Record {
    let soa = SOA::new(zone.clone(), zone.clone(), 1, 600, 600, 600, NEGATIVE_TTL);
    Record::from_rdata(zone.clone(), NEGATIVE_TTL, RData::SOA(soa))
}

/// `net/dns/resolver/tsdns.go`, `defaultTTL`.
const TTL: u32 = 5;
/// As the Go client's.
const NEGATIVE_TTL: u32 = 10;
/// RFC 1035, section 4.2.1.
const MIN_UDP: usize = 512;
/// What passes a link of 1280 bytes (RFC 9715).
const MAX_UDP_U16: u16 = 1232;
const MAX_UDP: usize = MAX_UDP_U16 as usize;
/// A question of 259 bytes with options.
pub(super) const MAX_QUERY: usize = 4096;
/// RFC 1035, section 4.1.1: QR and TC in the third byte.
const QUERY_RESPONSE: u8 = 0x80;
const TRUNCATED: u8 = 0x02;
/// RFC 4035, section 3.2.3: AD in the fourth.
const AUTHENTIC_DATA: u8 = 0x20;
/// RFC 8914: the option, and two of its codes.
const EXTENDED_ERROR: u16 = 15;
const PROHIBITED: u16 = 18;
const NO_REACHABLE_AUTHORITY: u16 = 22;
/// A reverse zone of ours is named by two octets, or by 48 bits (`util/dnsname`; Headscale's `GenerateIPv6DNSRootDomain`).
const REVERSE_LABELS_V4: usize = 4;
const REVERSE_LABELS_V6: usize = 14;
