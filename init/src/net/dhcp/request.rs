//! Writing our messages. They say who we are on the link (the hardware address) and which address we mean, nothing else:
//! no host name, no vendor class, no client identifier.

use std::net::Ipv4Addr;

use super::reply::{
    COOKIE, END, ETHERNET, LEASE_TIME, MESSAGE_TYPE, PARAMETER_LIST, REBINDING_TIME, RENEWAL_TIME,
    REQUESTED_ADDRESS, ROUTER, SERVER_ID, SUBNET_MASK,
};

/// What a message asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// DHCPDISCOVER.
    Discover,
    /// DHCPREQUEST that takes an offer (SELECTING, RFC 2131 section 4.3.2).
    Take { address: Ipv4Addr, server: Ipv4Addr },
    /// DHCPREQUEST for more time, from the address itself (RENEWING, REBINDING).
    Prolong { address: Ipv4Addr },
}

/// Length of every message, in bytes: BOOTP's minimum (RFC 951 section 3), which some servers insist on.
pub(super) const MESSAGE_LEN: usize = 300;

/// The bytes. `secs`: seconds since the exchange began.
pub(super) fn encode(question: Question, xid: u32, secs: u16, mac: [u8; 6]) -> [u8; MESSAGE_LEN] {
    let (kind, client, broadcast) = match question {
        Question::Discover => (DISCOVER, Ipv4Addr::UNSPECIFIED, true),
        Question::Take { .. } => (REQUEST, Ipv4Addr::UNSPECIFIED, true),
        Question::Prolong { address } => (REQUEST, address, false),
    };
    let flags: u16 = if broadcast { BROADCAST } else { 0 };
    let mut message = Vec::with_capacity(MESSAGE_LEN);
    // RFC 2131 figure 1.
    message.extend([BOOTREQUEST, ETHERNET, 6, 0]);
    message.extend(xid.to_be_bytes());
    message.extend(secs.to_be_bytes());
    message.extend(flags.to_be_bytes());
    message.extend(client.octets());
    message.extend([0; 12]); // yiaddr, siaddr, giaddr
    message.extend(mac);
    message.extend([0; 10 + 64 + 128]); // the rest of chaddr, sname, file
    message.extend(COOKIE);
    message.extend([MESSAGE_TYPE, 1, kind]);
    let (asked, server) = match question {
        Question::Discover | Question::Prolong { .. } => (None, None),
        Question::Take { address, server } => (Some(address), Some(server)),
    };
    for (code, address) in [(REQUESTED_ADDRESS, asked), (SERVER_ID, server)] {
        if let Some(address) = address {
            message.extend([code, 4]);
            message.extend(address.octets());
        }
    }
    message.extend([PARAMETER_LIST, 5, SUBNET_MASK, ROUTER, LEASE_TIME, RENEWAL_TIME, REBINDING_TIME]);
    message.push(END);
    let mut fixed = [0; MESSAGE_LEN];
    fixed.iter_mut().zip(message).for_each(|(to, from)| *to = from);
    fixed
}

/// RFC 951 section 3.
const BOOTREQUEST: u8 = 1;
/// RFC 2132 section 9.6.
const DISCOVER: u8 = 1;
const REQUEST: u8 = 3;
/// RFC 2131 figure 2: answer by broadcast, because a link without an address hears nothing else.
const BROADCAST: u16 = 0x8000;
