//! What the guest reads of its network, and of its own parts that may have been taken over.

use std::io;
use std::time::Duration;

use casemate_init::net::dhcp::{Client, Lease, Report};
use casemate_mesh::ring::{HEADER_LEN, Limits, MAX_LINE, Reader, Store};

use crate::Verdict;

const MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];
/// Where a message has its transaction id and its hardware address (RFC 2131 figure 1).
const XID: std::ops::Range<usize> = 4..8;
const CHADDR: std::ops::Range<usize> = 28..34;
/// More steps than an input needs to walk through every state and back.
const MAX_STEPS: usize = 32;

/// The client among hostile servers. The input is a list of steps: a byte of flags, a byte of waiting, two of length (big
/// endian), a message. Flag 1 puts the current transaction's id into the message, flag 2 our hardware address; a wait is
/// 2^n/16 seconds, so that a day's lease runs out in one step.
///
/// Whatever comes: the client never wants to be called again at once, reports nothing but what PID 1 would believe, and is
/// left as it was by a message that it refuses.
pub(crate) fn dhcp(mut input: &[u8]) -> Verdict {
    let mut now = Duration::ZERO;
    let mut client = Client::new(MAC, [7; 32], now);
    let mut xid = None;
    let mut leased = false;
    for _ in 0..MAX_STEPS {
        let output = client.tick(now);
        assert!(client.deadline() > now, "due again at once: {:?} at {now:?}", client.deadline());
        note(&output, &mut xid, &mut leased);

        let Some(([flags, wait, high, low], rest)) = input.split_first_chunk::<4>() else { break };
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (message, rest) = rest.split_at(length);
        input = rest;
        now += Duration::from_millis((1000 << (wait % 22)) / 16);
        // The contract: time first.
        let output = client.tick(now);
        note(&output, &mut xid, &mut leased);
        let mut message = message.to_vec();
        if let (1, Some(xid), Some(place)) = (flags & 1, xid, message.get_mut(XID)) {
            place.copy_from_slice(&xid);
        }
        if let (2, Some(place)) = (flags & 2, message.get_mut(CHADDR)) {
            place.copy_from_slice(&MAC);
        }
        let before = format!("{client:?}");
        match client.receive(now, &message) {
            Ok(output) => note(&output, &mut xid, &mut leased),
            Err(refusal) => {
                assert_eq!(format!("{client:?}"), before, "refused ({refusal}), and changed all the same");
            }
        }
    }
    Verdict::accepted(leased)
}

fn note(output: &casemate_init::net::dhcp::Output, xid: &mut Option<[u8; 4]>, leased: &mut bool) {
    if let Some(sent) = output.send {
        *xid = sent.get(XID).and_then(|id| id.try_into().ok());
    }
    if let Some(report) = output.report {
        assert_eq!(Report::decode(&report.encode()), Ok(report), "PID 1 reads what was not said");
        *leased |= matches!(report, Report::Lease(_));
    }
}

/// PID 1's side: what is believed has one encoding and obeys every rule.
pub(crate) fn dhcp_report(bytes: &[u8]) -> Verdict {
    let Ok(report) = Report::decode(bytes) else { return Verdict::Refused };
    assert_eq!(report.encode(), bytes);
    if let Report::Lease(lease) = report {
        let again = Lease::new(lease.address(), lease.prefix(), lease.gateway(), lease.seconds());
        assert_eq!(again, Ok(lease));
        let mask = u32::MAX << (32 - u32::from(lease.prefix()));
        let network = |address: std::net::Ipv4Addr| u32::from(address) & mask;
        assert_eq!(network(lease.address()), network(lease.gateway()), "the gateway is outside");
        assert_ne!(lease.address(), lease.gateway());
    }
    Verdict::Accepted
}

struct Bytes(Vec<u8>);

impl Store for Bytes {
    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start.checked_add(buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(self.0.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// The mesh's side of a log ring. The first byte's first bit asks for a right checksum in the header, the second byte says how
/// many lines are wanted and after which.
pub(crate) fn log_ring(input: &[u8]) -> Verdict {
    let Some(([flags, wanted], ring)) = input.split_first_chunk::<2>() else { return Verdict::Refused };
    let mut ring = ring.to_vec();
    if let (1, Some((numbers, rest))) = (flags & 1, ring.split_at_mut_checked(56))
        && let Some(checksum) = rest.first_chunk_mut::<8>()
    {
        *checksum = fnv_1a(numbers).to_le_bytes();
    }
    let limits = Limits { lines: usize::from(wanted % 16) + 1, bytes: 4096 };
    let after = u64::from(wanted / 16);
    let size = ring.len();
    let reader = Reader::new(Bytes(ring));
    let Ok(page) = reader.read(after, limits) else { return Verdict::Refused };
    assert!(page.lines.len() <= limits.lines, "{} lines", page.lines.len());
    let mut last = after;
    let mut bytes = 0;
    for line in &page.lines {
        assert!(
            line.sequence > last && line.sequence <= page.summary.lines,
            "line {} after {last}",
            line.sequence
        );
        assert!(line.bytes.len() <= MAX_LINE);
        last = line.sequence;
        bytes += line.bytes.len();
    }
    assert!(bytes <= limits.bytes.max(MAX_LINE));
    assert!(bytes as u64 + HEADER_LEN <= size as u64, "{bytes} bytes of lines in a ring of {size}");
    Verdict::accepted(!page.lines.is_empty())
}

/// The ring's checksum (casemate_mesh::ring).
fn fnv_1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
