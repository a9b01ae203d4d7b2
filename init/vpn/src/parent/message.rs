//! The messages on the report socket (`SOCK_SEQPACKET`: each arrives whole), beside the one-byte ones of every process.
//!
//! Each kind has one size. Unused places are zero, and read as nothing else; a message that is anything else is [`Malformed`].
//!
//! | first byte | who sends it | size | what |
//! | --- | --- | --- | --- |
//! | `N` | process | [`SetNetwork::LEN`] | these are the node's addresses now |
//! | `L` | process | [`SetServer::LEN`] | the coordination server's name leads to these addresses now |
//! | `n` | parent | [`Answer::LEN`] | done, or refused and why |
//! | `V` | process | [`Report::LEN`] | how the network stands |
//! | `K` | process | 1 | the slots were written |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use thiserror::Error;

use super::network::Refusal;

/// The process has written its slots.
pub const KEPT: &[u8] = b"K";
/// The longest message of all.
pub const LONGEST: usize = Report::LEN;
/// The most addresses of a node.
pub const ADDRESSES: usize = 8;
/// The most addresses of the coordination server.
pub const SERVERS: usize = 8;
/// The most tags that a report names.
pub const TAGS: usize = 8;
/// The longest tag or name that a report carries (RFC 1035 section 2.3.4: a label has 63 bytes; `tag:` before it).
pub const TEXT: usize = 67;

/// The longest domain that a report carries (RFC 1035 section 2.3.4, in text).
pub const DOMAIN: usize = 253;

const ADDRESS_LEN: usize = 18;
const TEXT_LEN: usize = TEXT + 1;
const DOMAIN_LEN: usize = DOMAIN + 1;

/// A message that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a message of this version")]
pub struct Malformed;

/// "These are the node's addresses": whatever it had before and is not listed goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetNetwork {
    /// Which request this is; the answer repeats it.
    pub sequence: u32,
    /// At most [`ADDRESSES`].
    pub addresses: Vec<IpNet>,
}

/// "The coordination server's name leads there": wherever it led before, and is not listed, is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetServer {
    /// Which request this is; the answer repeats it.
    pub sequence: u32,
    /// At most [`SERVERS`]. The guest's link has no IPv6.
    pub addresses: Vec<Ipv4Addr>,
}

/// The parent's word on a [`SetNetwork`] or a [`SetServer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Which request.
    pub sequence: u32,
    /// Whether it was done.
    pub outcome: Result<(), Refusal>,
}

/// Where the node stands with its network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// It has not asked yet.
    #[default]
    Starting,
    /// It asks to be admitted.
    Joining,
    /// It has a map, of this run or of an earlier one.
    Running,
    /// Its key was refused; it waits for a new one.
    Refused,
    /// It has no key to join with.
    KeyNeeded,
    /// The server has another key than the pinned one.
    PinMismatch,
    /// The network has no policy, and the document requires one.
    NoPolicy,
}

impl Standing {
    /// All, by the number that stands for each.
    const ALL: [Self; 7] = [
        Self::Starting,
        Self::Joining,
        Self::Running,
        Self::Refused,
        Self::KeyNeeded,
        Self::PinMismatch,
        Self::NoPolicy,
    ];

    /// The word for documents.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Joining => "joining",
            Self::Running => "running",
            Self::Refused => "refused",
            Self::KeyNeeded => "key-needed",
            Self::PinMismatch => "pin-mismatch",
            Self::NoPolicy => "no-policy",
        }
    }
}

/// How the network stands, for the parent's own status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// In one word.
    pub standing: Standing,
    /// Whether the coordination server is connected now.
    pub connected: bool,
    /// Our node key; zero before there is one.
    pub key: [u8; 32],
    /// Peers in the map.
    pub peers: u32,
    /// Peers with a direct path now.
    pub direct: u32,
    /// The home relay's region; 0: none.
    pub home: u32,
    /// The network's own domain, as far as it is believed; empty: none.
    pub domain: String,
    /// The first label of the name that the map gives us; empty before the first map.
    pub name: String,
    /// The tags that the map shows for us; more than [`TAGS`] are not said.
    pub tags: Vec<String>,
}

impl SetNetwork {
    /// Its size.
    pub const LEN: usize = 8 + ADDRESSES * ADDRESS_LEN;
    const KIND: u8 = b'N';

    /// The bytes. `None`: more addresses than a message has room for.
    pub fn encode(&self) -> Option<[u8; Self::LEN]> {
        let mut writer = Writer::new(Self::KIND);
        writer.put(&[u8::try_from(self.addresses.len()).ok()?, 0, 0]);
        writer.put(&self.sequence.to_le_bytes());
        for address in &self.addresses {
            match address {
                IpNet::V4(net) => {
                    writer.put(&[4, net.prefix_len()]);
                    writer.put(&net.addr().octets());
                    writer.put(&[0; 12]);
                }
                IpNet::V6(net) => {
                    writer.put(&[6, net.prefix_len()]);
                    writer.put(&net.addr().octets());
                }
            }
        }
        writer.done()
    }

    /// From hostile bytes.
    ///
    /// # Errors
    /// Whatever is no such message.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes, Self::LEN, Self::KIND)?;
        let [count, 0, 0] = reader.take()? else { return Err(Malformed) };
        let sequence = u32::from_le_bytes(reader.take()?);
        let count = usize::from(count);
        if count > ADDRESSES {
            return Err(Malformed);
        }
        let mut addresses = Vec::with_capacity(count);
        for _ in 0..count {
            let [family, length] = reader.take()?;
            let address: [u8; 16] = reader.take()?;
            let ip = match (family, address) {
                (4, [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]) => {
                    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
                }
                (6, octets) => IpAddr::V6(Ipv6Addr::from(octets)),
                _ => return Err(Malformed),
            };
            addresses.push(IpNet::new(ip, length).map_err(|_| Malformed)?);
        }
        reader.nothing_else()?;
        Ok(Self { sequence, addresses })
    }
}

impl SetServer {
    /// Its size.
    pub const LEN: usize = 8 + SERVERS * 4;
    const KIND: u8 = b'L';

    /// The bytes. `None`: more addresses than a message has room for.
    pub fn encode(&self) -> Option<[u8; Self::LEN]> {
        let mut writer = Writer::new(Self::KIND);
        writer.put(&[u8::try_from(self.addresses.len()).ok()?, 0, 0]);
        writer.put(&self.sequence.to_le_bytes());
        for address in &self.addresses {
            writer.put(&address.octets());
        }
        writer.done()
    }

    /// From hostile bytes.
    ///
    /// # Errors
    /// Whatever is no such message.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes, Self::LEN, Self::KIND)?;
        let [count, 0, 0] = reader.take()? else { return Err(Malformed) };
        let sequence = u32::from_le_bytes(reader.take()?);
        if usize::from(count) > SERVERS {
            return Err(Malformed);
        }
        let addresses =
            (0..count).map(|_| reader.take::<4>().map(Ipv4Addr::from)).collect::<Result<_, _>>()?;
        reader.nothing_else()?;
        Ok(Self { sequence, addresses })
    }
}

impl Answer {
    /// Its size.
    pub const LEN: usize = 8;
    const KIND: u8 = b'n';

    /// The bytes.
    pub fn encode(self) -> [u8; Self::LEN] {
        let outcome = self.outcome.map_or_else(Refusal::number, |()| 0);
        let [a, b, c, d] = self.sequence.to_le_bytes();
        [Self::KIND, outcome, 0, 0, a, b, c, d]
    }

    /// From bytes.
    ///
    /// # Errors
    /// Whatever is no such message.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes, Self::LEN, Self::KIND)?;
        let [outcome, 0, 0] = reader.take()? else { return Err(Malformed) };
        let sequence = u32::from_le_bytes(reader.take()?);
        let outcome = match outcome {
            0 => Ok(()),
            number => Err(Refusal::of_number(number).ok_or(Malformed)?),
        };
        Ok(Self { sequence, outcome })
    }
}

impl Report {
    /// Its size.
    pub const LEN: usize = 4 + 32 + 3 * 4 + DOMAIN_LEN + TEXT_LEN * (1 + TAGS);
    const KIND: u8 = b'V';

    /// The bytes. Texts that have no room, or are no plain ones, are left out.
    pub fn encode(&self) -> Option<[u8; Self::LEN]> {
        let mut writer = Writer::new(Self::KIND);
        let standing = Standing::ALL.iter().position(|one| *one == self.standing)?;
        let tags: Vec<&str> =
            self.tags.iter().map(String::as_str).filter(|tag| is_text(tag)).take(TAGS).collect();
        writer.put(&[u8::try_from(standing).ok()?, u8::from(self.connected), u8::try_from(tags.len()).ok()?]);
        writer.put(&self.key);
        for number in [self.peers, self.direct, self.home] {
            writer.put(&number.to_le_bytes());
        }
        writer.put_text::<DOMAIN_LEN>(if is_domain(&self.domain) { &self.domain } else { "" })?;
        writer.put_text::<TEXT_LEN>(if is_text(&self.name) { &self.name } else { "" })?;
        for tag in tags {
            writer.put_text::<TEXT_LEN>(tag)?;
        }
        writer.done()
    }

    /// From hostile bytes: its texts are plain ones.
    ///
    /// # Errors
    /// Whatever is no such message.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes, Self::LEN, Self::KIND)?;
        let [standing, connected, tags] = reader.take()?;
        let key = reader.take()?;
        let mut numbers = [0; 3];
        for number in &mut numbers {
            *number = u32::from_le_bytes(reader.take()?);
        }
        let [peers, direct, home] = numbers;
        let domain = reader.take_text::<DOMAIN_LEN>(is_domain)?;
        let name = reader.take_text::<TEXT_LEN>(is_text)?;
        if usize::from(tags) > TAGS {
            return Err(Malformed);
        }
        let tags = (0..tags)
            .map(|_| match reader.take_text::<TEXT_LEN>(is_text) {
                Ok(tag) if tag.is_empty() => Err(Malformed),
                tag => tag,
            })
            .collect::<Result<_, _>>()?;
        reader.nothing_else()?;
        let connected = match connected {
            0 => false,
            1 => true,
            _ => return Err(Malformed),
        };
        let standing = *Standing::ALL.get(usize::from(standing)).ok_or(Malformed)?;
        Ok(Self { standing, connected, key, peers, direct, home, domain, name, tags })
    }
}

/// What the message of the process is, by its first byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Addresses to set.
    SetNetwork(SetNetwork),
    /// Where the coordination server's name leads.
    SetServer(SetServer),
    /// How the network stands.
    Report(Report),
    /// The slots were written.
    Kept,
}

impl Message {
    /// From hostile bytes.
    ///
    /// # Errors
    /// Whatever is none of the process's messages.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        match bytes.first() {
            Some(&SetNetwork::KIND) => SetNetwork::decode(bytes).map(Self::SetNetwork),
            Some(&SetServer::KIND) => SetServer::decode(bytes).map(Self::SetServer),
            Some(&Report::KIND) => Report::decode(bytes).map(Self::Report),
            _ if bytes == KEPT => Ok(Self::Kept),
            _ => Err(Malformed),
        }
    }
}

/// Whether a name or a tag is one that may be shown: lower-case labels, and a colon.
fn is_text(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b':');
    !text.is_empty() && text.len() <= TEXT && text.bytes().all(plain)
}

/// Whether a domain is one that may be written anywhere: lower-case labels, and dots between them.
pub fn is_domain(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(plain);
    text.len() <= DOMAIN && text.split('.').all(label)
}

struct Writer<const LEN: usize> {
    bytes: [u8; LEN],
    at: usize,
    fits: bool,
}

impl<const LEN: usize> Writer<LEN> {
    fn new(kind: u8) -> Self {
        let mut writer = Self { bytes: [0; LEN], at: 0, fits: true };
        writer.put(&[kind]);
        writer
    }

    fn put(&mut self, what: &[u8]) {
        let end = self.at.saturating_add(what.len());
        match self.bytes.get_mut(self.at..end) {
            Some(place) => place.copy_from_slice(what),
            None => self.fits = false,
        }
        self.at = end;
    }

    fn put_text<const N: usize>(&mut self, text: &str) -> Option<()> {
        let mut field = [0; N];
        let (length, rest) = field.split_first_mut()?;
        *length = u8::try_from(text.len()).ok()?;
        rest.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        self.put(&field);
        Some(())
    }

    /// What is not written is zero.
    fn done(self) -> Option<[u8; LEN]> {
        self.fits.then_some(self.bytes)
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8], length: usize, kind: u8) -> Result<Self, Malformed> {
        match bytes.split_first() {
            Some((first, rest)) if bytes.len() == length && *first == kind => Ok(Self(rest)),
            _ => Err(Malformed),
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn take_text<const N: usize>(&mut self, is_good: fn(&str) -> bool) -> Result<String, Malformed> {
        let field: [u8; N] = self.take()?;
        let (length, rest) = field.split_first().ok_or(Malformed)?;
        let (text, padding) = rest.split_at_checked(usize::from(*length)).ok_or(Malformed)?;
        let text = std::str::from_utf8(text).map_err(|_| Malformed)?;
        let good = (text.is_empty() || is_good(text)) && padding.iter().all(|b| *b == 0);
        good.then(|| text.to_owned()).ok_or(Malformed)
    }

    fn nothing_else(self) -> Result<(), Malformed> {
        if self.0.iter().all(|b| *b == 0) { Ok(()) } else { Err(Malformed) }
    }
}

#[cfg(test)]
mod tests;
