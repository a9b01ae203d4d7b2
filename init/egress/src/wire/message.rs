//! Messages: `struct nlmsghdr` (linux/netlink.h), `struct nfgenmsg` (linux/netfilter/nfnetlink.h), batches and dumps.

use super::attribute::{WireError, Writer, fixed};
use super::object::{ElementsObject, Family, Object};

/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const F_REQUEST: u16 = 0x1;
const F_ACK: u16 = 0x4;
const F_DUMP_INTERRUPTED: u16 = 0x10;
const F_DUMP: u16 = 0x300;
const F_EXCLUSIVE: u16 = 0x200;
const F_CREATE: u16 = 0x400;
const F_APPEND: u16 = 0x800;

const HEADER: usize = 16;
const GENERIC: usize = 4;

/// What a message is about. The number is `NFT_MSG_NEW*`; get and delete follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Table = 0,
    Chain = 3,
    Rule = 6,
    Set = 9,
    Elements = 12,
    Counter = 18,
}

impl Kind {
    const fn add(self) -> u16 {
        SUBSYSTEM << 8 | self as u16
    }

    const fn get(self) -> u16 {
        self.add() + 1
    }

    const fn delete(self) -> u16 {
        self.add() + 2
    }
}

/// One change of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outgoing {
    /// Adds an object that does not exist yet (elements may).
    Add(Family, Object),
    /// Empties a set.
    Empty(Family, ElementsObject),
}

impl Outgoing {
    /// For error messages: which object the kernel refused.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Add(_, Object::Table(t)) => format!("table {}", t.name),
            Self::Add(_, Object::Chain(c)) => format!("chain {} {}", c.table, c.name),
            Self::Add(_, Object::Rule(r)) => format!("a rule of chain {} {}", r.table, r.chain),
            Self::Add(_, Object::Set(s)) => format!("set {} {}", s.table, s.name),
            Self::Add(_, Object::Elements(e)) | Self::Empty(_, e) => {
                format!("elements of set {} {}", e.table, e.set)
            }
            Self::Add(_, Object::Counter(c)) => format!("counter {} {}", c.table, c.name),
        }
    }
}

/// One transaction: all of it takes effect, or nothing. Message `i` has sequence number `first + 1 + i`; the kernel is
/// asked to acknowledge the last one, and it reports every one that it refuses.
pub(crate) fn batch(first: u32, changes: &[Outgoing]) -> Result<Vec<u8>, WireError> {
    let mut bytes = Vec::new();
    let edge =
        |bytes: &mut Vec<u8>, kind, sequence| push(bytes, kind, F_REQUEST, sequence, 0, SUBSYSTEM, &[]);
    edge(&mut bytes, BATCH_BEGIN, first)?;
    let mut sequence = first;
    for (i, change) in changes.iter().enumerate() {
        sequence = sequence.wrapping_add(1);
        let (family, kind, flags, body) = match change {
            Outgoing::Add(family, object) => {
                let (kind, flags, body) = addition(object, sequence)?;
                (*family, kind.add(), flags, body)
            }
            Outgoing::Empty(family, elements) => (*family, Kind::Elements.delete(), 0, elements.write()?),
        };
        let ack = if i + 1 == changes.len() { F_ACK } else { 0 };
        push(&mut bytes, kind, F_REQUEST | ack | flags, sequence, family as u8, 0, &body)?;
    }
    edge(&mut bytes, BATCH_END, sequence.wrapping_add(1))?;
    Ok(bytes)
}

fn addition(object: &Object, sequence: u32) -> Result<(Kind, u16, Vec<u8>), WireError> {
    let new = F_CREATE | F_EXCLUSIVE;
    Ok(match object {
        Object::Table(table) => (Kind::Table, new, table.write()?),
        Object::Chain(chain) => (Kind::Chain, new, chain.write()?),
        Object::Rule(rule) => (Kind::Rule, F_CREATE | F_APPEND, rule.write()?),
        Object::Set(set) => (Kind::Set, new, set.write(sequence)?),
        Object::Elements(elements) => (Kind::Elements, F_CREATE, elements.write()?),
        Object::Counter(counter) => (Kind::Counter, new, counter.write()?),
    })
}

/// Asks for every object of a kind in a table (the kernel may answer with other tables' too); `set` for elements.
pub(crate) fn dump_request(
    sequence: u32,
    kind: Kind,
    family: Family,
    table: &str,
    set: Option<&str>,
) -> Result<Vec<u8>, WireError> {
    let mut body = Writer::default();
    body.name(1, "table", table);
    if let Some(set) = set {
        body.name(2, "set", set);
    }
    let mut bytes = Vec::new();
    push(&mut bytes, kind.get(), F_REQUEST | F_DUMP, sequence, family as u8, 0, &body.finish()?)?;
    Ok(bytes)
}

fn push(
    out: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    family: u8,
    resource: u16,
    body: &[u8],
) -> Result<(), WireError> {
    let length = u32::try_from(HEADER + GENERIC + body.len()).map_err(|_| WireError::TooLong("message"))?;
    out.extend_from_slice(&length.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(&flags.to_ne_bytes());
    out.extend_from_slice(&sequence.to_ne_bytes());
    out.extend_from_slice(&0u32.to_ne_bytes());
    out.extend_from_slice(&[family, 0]);
    out.extend_from_slice(&resource.to_be_bytes());
    out.extend_from_slice(body);
    out.resize(out.len().next_multiple_of(4), 0);
    Ok(())
}

/// One message from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
    /// Message `sequence` took effect.
    Ack { sequence: u32 },
    /// It did not; a positive errno.
    Refused { sequence: u32, errno: i32 },
    /// The end of a dump.
    Done { sequence: u32, interrupted: bool },
    /// An object of a dump. `interrupted`: the tables changed while it ran, so it may be inconsistent.
    Item { sequence: u32, interrupted: bool, body: Vec<u8> },
}

/// Takes one datagram apart.
pub(crate) fn incoming(mut bytes: &[u8]) -> Result<Vec<Incoming>, WireError> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let truncated = |expected| WireError::Truncated { what: "message", expected, found: bytes.len() };
        let header = bytes.get(..HEADER).ok_or_else(|| truncated(HEADER))?;
        let word = |at: usize| header.get(at..at + 4).unwrap_or_default();
        let length = u32::from_ne_bytes(fixed("message length", word(0))?);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let sequence = u32::from_ne_bytes(fixed("sequence", word(8))?);
        let [k0, k1, f0, f1] = fixed("message type", word(4))?;
        let interrupted = u16::from_ne_bytes([f0, f1]) & F_DUMP_INTERRUPTED != 0;
        let payload = bytes.get(HEADER..length).ok_or_else(|| truncated(length.max(HEADER)))?;
        match u16::from_ne_bytes([k0, k1]) {
            NLMSG_NOOP => {}
            NLMSG_DONE => messages.push(done(sequence, interrupted, payload)?),
            NLMSG_ERROR => messages.push(acknowledgement(payload)?),
            kind if kind >> 8 == SUBSYSTEM => {
                let body = payload.get(GENERIC..).ok_or_else(|| truncated(HEADER + GENERIC))?.to_vec();
                messages.push(Incoming::Item { sequence, interrupted, body });
            }
            kind => return Err(WireError::Value { what: "message type", found: kind.into() }),
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(messages)
}

/// `NLMSG_DONE` carries the dump's result: 0 or a negative errno (`netlink_dump_done`, net/netlink/af_netlink.c).
fn done(sequence: u32, interrupted: bool, payload: &[u8]) -> Result<Incoming, WireError> {
    let code = payload.get(..4).map_or(Ok(0), |code| fixed("dump result", code).map(i32::from_ne_bytes))?;
    Ok(if code < 0 {
        Incoming::Refused { sequence, errno: code.saturating_neg() }
    } else {
        Incoming::Done { sequence, interrupted }
    })
}

/// `struct nlmsgerr`: a negative errno or 0, then the header of the message that it answers.
fn acknowledgement(payload: &[u8]) -> Result<Incoming, WireError> {
    let code = i32::from_ne_bytes(fixed("error code", payload.get(..4).unwrap_or_default())?);
    let sequence = u32::from_ne_bytes(fixed("answered sequence", payload.get(12..16).unwrap_or_default())?);
    Ok(match code {
        0 => Incoming::Ack { sequence },
        code => Incoming::Refused { sequence, errno: code.saturating_neg() },
    })
}
