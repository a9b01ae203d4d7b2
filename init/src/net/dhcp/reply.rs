//! Reading a server's message: bounded, by hand.
//!
//! By hand because the parsers at hand decode every option, also the dozens we ignore (dhcproto 0.15 panics on the
//! hardware address of a message whose `hlen` exceeds 16). Here an option that is not ours is a length to step over.

use std::net::Ipv4Addr;

use super::lease::{Lease, LeaseRefused, is_host};

/// What a message of ours to the client says. Everything else in it is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) kind: Kind,
    /// `yiaddr`.
    pub(super) address: Ipv4Addr,
    pub(super) server: Ipv4Addr,
    terms: Terms,
}

/// Option 53, as far as a server sends it to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Offer,
    Ack,
    Nak,
}

/// Options 1, 3, 51, 58, 59.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Terms {
    mask: Option<Ipv4Addr>,
    router: Option<Ipv4Addr>,
    lease: Option<u32>,
    renewal: Option<u32>,
    rebinding: Option<u32>,
}

/// A lease and when to prolong it, in seconds from when it was asked for. `renewal < rebinding < lease`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) lease: Lease,
    pub(super) renewal: u32,
    pub(super) rebinding: u32,
}

/// Why a message was ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Longer than an Ethernet frame carries, or shorter than the fixed part with its cookie.
    #[error("expected 240 to 1472 bytes, found {0}")]
    Size(usize),
    /// No BOOTREPLY for Ethernet with DHCP's cookie.
    #[error("expected a BOOTREPLY for Ethernet with the DHCP cookie")]
    NotAReply,
    /// It answers another transaction.
    #[error("expected our transaction id")]
    OtherTransaction,
    /// It is for another machine.
    #[error("expected our hardware address")]
    OtherHardware,
    /// An option runs past the end, or there is no end option.
    #[error("expected options up to an end option")]
    Truncated,
    /// An option that we read occurs twice.
    #[error("option {0}: expected it once")]
    Repeated(u8),
    /// An option that we read has a length or a value that it cannot have.
    #[error("option {0}: malformed")]
    Malformed(u8),
    /// An option that we need is missing.
    #[error("option {0}: missing")]
    Missing(u8),
    /// The lease must not be used.
    #[error(transparent)]
    Lease(#[from] LeaseRefused),
    /// Nothing was asked that this could answer.
    #[error("expected another kind of message now")]
    OutOfTurn,
    /// It is from another server than the one we chose.
    #[error("expected the chosen server, found {0}")]
    OtherServer(Ipv4Addr),
    /// It grants another address than the one we asked for.
    #[error("expected the address we asked for, found {0}")]
    OtherAddress(Ipv4Addr),
}

impl Reply {
    /// Reads a message that must answer transaction `xid` of the machine with address `mac`.
    pub(super) fn parse(bytes: &[u8], xid: u32, mac: [u8; 6]) -> Result<Self, Refusal> {
        let size = Refusal::Size(bytes.len());
        if bytes.len() > MAX_LEN {
            return Err(size);
        }
        // RFC 2131 figure 1, then the cookie of section 3.
        let (&[op, htype, hlen, _hops], rest) = bytes.split_first_chunk::<4>().ok_or(size)?;
        let (transaction, rest) = rest.split_first_chunk::<4>().ok_or(size)?;
        let (_secs_flags_ciaddr, rest) = rest.split_first_chunk::<8>().ok_or(size)?;
        let (&yiaddr, rest) = rest.split_first_chunk::<4>().ok_or(size)?;
        let (_siaddr_giaddr, rest) = rest.split_first_chunk::<8>().ok_or(size)?;
        let (hardware, rest) = rest.split_first_chunk::<6>().ok_or(size)?;
        let (_padding_sname_file, rest) = rest.split_first_chunk::<202>().ok_or(size)?;
        let (cookie, options) = rest.split_first_chunk::<4>().ok_or(size)?;
        if (op, htype, hlen) != (BOOTREPLY, ETHERNET, 6) || *cookie != COOKIE {
            return Err(Refusal::NotAReply);
        }
        if *transaction != xid.to_be_bytes() {
            return Err(Refusal::OtherTransaction);
        }
        if *hardware != mac {
            return Err(Refusal::OtherHardware);
        }
        let options = Options::parse(options)?;
        let server = options.server.ok_or(Refusal::Missing(SERVER_ID))?;
        if !is_host(server) {
            return Err(Refusal::Malformed(SERVER_ID));
        }
        let kind = options.kind.ok_or(Refusal::Missing(MESSAGE_TYPE))?;
        Ok(Self { kind, address: yiaddr.into(), server, terms: options.terms })
    }

    /// The lease in it, checked.
    pub(super) fn grant(&self) -> Result<Grant, Refusal> {
        let mask = self.terms.mask.ok_or(Refusal::Missing(SUBNET_MASK))?;
        let prefix = ipnet::ipv4_mask_to_prefix(mask).map_err(|_| Refusal::Malformed(SUBNET_MASK))?;
        let router = self.terms.router.ok_or(Refusal::Missing(ROUTER))?;
        let seconds = self.terms.lease.ok_or(Refusal::Missing(LEASE_TIME))?.min(Lease::MAX_SECONDS);
        let lease = Lease::new(self.address, prefix, router, seconds)?;
        // RFC 2131 section 4.4.5: T1 is half of the lease and T2 seven eighths unless the server says otherwise. What
        // it says counts only in order and at least half a minimal lease apart from "at once".
        let (half, most) = (seconds / 2, seconds / 8 * 7);
        let (renewal, rebinding) = match (self.terms.renewal, self.terms.rebinding) {
            (Some(t1), Some(t2)) if Lease::MIN_SECONDS / 2 <= t1 && t1 < t2 && t2 < seconds => (t1, t2),
            _ => (half, most),
        };
        Ok(Grant { lease, renewal, rebinding })
    }
}

#[derive(Default)]
struct Options {
    kind: Option<Kind>,
    server: Option<Ipv4Addr>,
    terms: Terms,
}

impl Options {
    /// RFC 2132 section 2: code, length, value; 0 alone is padding, 255 alone the end, which RFC 2131 section 4.1 demands.
    /// Options inside `sname` and `file` (option 52) are not looked for.
    fn parse(mut rest: &[u8]) -> Result<Self, Refusal> {
        let mut options = Self::default();
        loop {
            let (&code, after) = rest.split_first().ok_or(Refusal::Truncated)?;
            match code {
                PAD => {
                    rest = after;
                    continue;
                }
                END => return Ok(options),
                _ => {}
            }
            let (&len, after) = after.split_first().ok_or(Refusal::Truncated)?;
            let (value, after) = after.split_at_checked(usize::from(len)).ok_or(Refusal::Truncated)?;
            options.take(code, value)?;
            rest = after;
        }
    }

    fn take(&mut self, code: u8, value: &[u8]) -> Result<(), Refusal> {
        let terms = &mut self.terms;
        match code {
            MESSAGE_TYPE => once(&mut self.kind, code, kind(value)),
            SERVER_ID => once(&mut self.server, code, four(value).map(Ipv4Addr::from)),
            SUBNET_MASK => once(&mut terms.mask, code, four(value).map(Ipv4Addr::from)),
            ROUTER => once(&mut terms.router, code, first_of(value).map(Ipv4Addr::from)),
            LEASE_TIME => once(&mut terms.lease, code, four(value).map(u32::from_be_bytes)),
            RENEWAL_TIME => once(&mut terms.renewal, code, four(value).map(u32::from_be_bytes)),
            REBINDING_TIME => once(&mut terms.rebinding, code, four(value).map(u32::from_be_bytes)),
            _ => Ok(()),
        }
    }
}

/// RFC 3396 would join the parts of an option that occurs twice; none of ours is long enough to need it.
fn once<T>(slot: &mut Option<T>, code: u8, value: Option<T>) -> Result<(), Refusal> {
    let value = value.ok_or(Refusal::Malformed(code))?;
    if slot.replace(value).is_some() {
        return Err(Refusal::Repeated(code));
    }
    Ok(())
}

fn four(value: &[u8]) -> Option<[u8; 4]> {
    value.try_into().ok()
}

/// The first of one or more addresses, RFC 2132 section 3.5.
fn first_of(value: &[u8]) -> Option<[u8; 4]> {
    value.len().is_multiple_of(4).then_some(())?;
    value.first_chunk().copied()
}

/// RFC 2132 section 9.6.
fn kind(value: &[u8]) -> Option<Kind> {
    match value {
        [2] => Some(Kind::Offer),
        [5] => Some(Kind::Ack),
        [6] => Some(Kind::Nak),
        _ => None,
    }
}

/// What fits an Ethernet frame of 1500 bytes after IP and UDP. We never ask for more than 576 (RFC 2132 section 9.10).
pub(super) const MAX_LEN: usize = 1472;
/// RFC 2131 section 3.
pub(super) const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// RFC 951 section 3.
const BOOTREPLY: u8 = 2;
/// RFC 951: ARP hardware type 1.
pub(super) const ETHERNET: u8 = 1;

// Option codes, RFC 2132.
const PAD: u8 = 0;
pub(super) const END: u8 = 255;
pub(super) const SUBNET_MASK: u8 = 1;
pub(super) const ROUTER: u8 = 3;
pub(super) const REQUESTED_ADDRESS: u8 = 50;
pub(super) const LEASE_TIME: u8 = 51;
pub(super) const MESSAGE_TYPE: u8 = 53;
pub(super) const SERVER_ID: u8 = 54;
pub(super) const PARAMETER_LIST: u8 = 55;
pub(super) const RENEWAL_TIME: u8 = 58;
pub(super) const REBINDING_TIME: u8 = 59;
