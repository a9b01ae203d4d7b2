//! What lies between the process and its parent, over restarts, and in a file.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use casemate_init::vpn::Config;
use casemate_vpn::control::client::ServerUrl;
use casemate_vpn::parent::message::{self as wire, Message, Report};
use casemate_vpn::parent::network::check;
use casemate_vpn::parent::slots::{MAX_CONTENT, Slots, create};
use casemate_vpn::state::Kept;
use sha2::{Digest as _, Sha256};

use super::{PREFIXES, inside};
use crate::Verdict;
use crate::measured::check_printable;

/// Where the second slot begins.
const SECOND: u64 = 5 << 20;
/// Magic, generation, length, digest.
const HEADER: usize = 56;

/// `K` and a record, or `S` and slots.
///
/// A record that is read is written as one that is read as the same, and holds no address outside the prefixes.
pub(crate) fn state(input: &[u8]) -> Verdict {
    match input.split_first() {
        Some((b'K', bytes)) => record(bytes),
        Some((b'S', bytes)) => slots(bytes),
        _ => Verdict::Refused,
    }
}

fn record(bytes: &[u8]) -> Verdict {
    let kept = match Kept::decode(bytes, &PREFIXES) {
        Ok(kept) => kept,
        Err(error) => {
            assert!(error.to_string().len() < 4096);
            return Verdict::Refused;
        }
    };
    if let Some(map) = &kept.map {
        assert_eq!(map.node.key, kept.node.secret.public());
        let nodes = || std::iter::once(&map.node).chain(map.peers.values());
        for net in nodes().flat_map(|node| node.addresses.iter().chain(&node.allowed)) {
            assert!(inside(net), "{net}");
        }
        assert!(map.peers.iter().all(|(id, peer)| *id == peer.id));
    }
    let written = kept.encode().unwrap_or_else(|error| panic!("read, but not written: {error}"));
    let again = Kept::decode(&written, &PREFIXES).unwrap_or_else(|error| panic!("written: {error}"));
    assert_eq!(again.encode().ok(), Some(written));
    Verdict::Accepted
}

/// Flags (1 and 2: the first and the second slot's magic, length and digest are made right), then the first slot's length (two
/// bytes, big endian) and the slots' bytes. What is read is the newest slot that is right, and there is always room for the next.
fn slots(input: &[u8]) -> Verdict {
    let Some(([flags, high, low], bytes)) = input.split_first_chunk::<3>() else { return Verdict::Refused };
    let length = usize::from(u16::from_be_bytes([*high, *low])).min(bytes.len());
    let (first, second) = bytes.split_at(length);
    let given = [slot(first, flags & 1 != 0), slot(second, flags & 2 != 0)];
    let memory = create().unwrap_or_else(|error| panic!("no memory: {error}"));
    let file = File::from(memory.try_clone().unwrap_or_else(|error| panic!("no descriptor: {error}")));
    for (bytes, start) in given.iter().zip([0, SECOND]) {
        file.write_all_at(bytes, start).unwrap_or_else(|error| panic!("not written: {error}"));
    }
    let slots = Slots::new(memory).unwrap_or_else(|error| panic!("other slots: {error}"));
    let read = slots.read();
    let [one, two] = given.each_ref().map(|bytes| content(bytes));
    let newest = match (one, two) {
        (Some(one), Some(two)) if two.0 > one.0 => Some(two),
        (one, two) => one.or(two),
    };
    assert_eq!(read.as_deref(), newest.map(|(_, content)| content), "not the newest that is right");
    for next in [b"the next".as_slice(), b"", b"and another"] {
        slots.write(next).unwrap_or_else(|error| panic!("not written: {error}"));
        assert_eq!(slots.read().as_deref(), Some(next), "what was written is not what is read");
    }
    Verdict::accepted(read.is_some())
}

fn slot(bytes: &[u8], right: bool) -> Vec<u8> {
    let mut slot = bytes.to_vec();
    if right && let Some((header, content)) = slot.split_first_chunk_mut::<HEADER>() {
        header[..8].copy_from_slice(b"cmvpnst1");
        header[16..24].copy_from_slice(&(content.len() as u64).to_le_bytes());
        let digest = digest(&header[..24], content);
        header[24..].copy_from_slice(&digest);
    }
    slot
}

/// Generation and content of a slot that is right. No input is as long as a page, so that what is beyond is zero.
fn content(slot: &[u8]) -> Option<(u64, &[u8])> {
    let (header, content) = slot.split_first_chunk::<HEADER>()?;
    let length = usize::try_from(u64::from_le_bytes(header[16..24].try_into().ok()?)).ok()?;
    let content = content.get(..length).filter(|_| length <= MAX_CONTENT)?;
    let good = header.starts_with(b"cmvpnst1") && digest(&header[..24], content) == header[24..];
    Some((u64::from_le_bytes(header[8..16].try_into().ok()?), content)).filter(|_| good)
}

fn digest(header: &[u8], content: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(header).chain_update(content).finalize().into()
}

/// Both directions of the report socket: one spelling for each message, and the parent sets no address outside the prefixes.
pub(crate) fn message(bytes: &[u8]) -> Verdict {
    if let Ok(answer) = wire::Answer::decode(bytes) {
        assert_eq!(answer.encode(), bytes);
        return Verdict::Accepted;
    }
    let Ok(message) = Message::decode(bytes) else { return Verdict::Refused };
    match message {
        Message::Kept => assert_eq!(bytes, wire::KEPT),
        Message::SetNetwork(set) => {
            assert_eq!(set.encode().as_ref().map(<[u8; _]>::as_slice), Some(bytes));
            assert!(set.addresses.len() <= wire::ADDRESSES);
            if check(&PREFIXES, &set.addresses).is_ok() {
                assert!(set.addresses.iter().all(|net| inside(net) && super::is_host(net)));
            }
        }
        Message::SetServer(set) => {
            assert_eq!(set.encode().as_ref().map(<[u8; _]>::as_slice), Some(bytes));
            assert!(set.addresses.len() <= wire::SERVERS);
        }
        Message::Report(report) => {
            assert_eq!(report.encode().as_ref().map(<[u8; Report::LEN]>::as_slice), Some(bytes));
            assert!(report.tags.len() <= wire::TAGS);
            for text in report.tags.iter().chain([&report.name]) {
                assert!(
                    text.len() <= wire::TEXT && text.bytes().all(|byte| byte.is_ascii_graphic()),
                    "{text:?}"
                );
            }
        }
    }
    Verdict::Accepted
}

/// The file of `casemate-init vpn --config`, without those that it names: what is read obeys every rule, and neither it nor a
/// refusal shows a key.
pub(crate) fn config(bytes: &[u8]) -> Verdict {
    let config = match Config::check(bytes) {
        Ok(config) => config,
        Err(problem) => {
            check_printable(&problem.to_string());
            return Verdict::Refused;
        }
    };
    let server = &config.login_server;
    if server.url.is_empty() {
        assert!(config.registration.is_some(), "nobody says where the server is");
    } else {
        let url: ServerUrl = server.url.parse().unwrap_or_else(|error| panic!("{:?}: {error}", server.url));
        assert!(url.https || url.is_loopback() || server.plain_http, "{}", server.url);
    }
    if let Some(key) = &server.authkey
        && key.expose().len() >= 16
    {
        assert!(!format!("{config:?}").contains(key.expose()), "the key is shown");
    }
    assert!(!config.prefixes.is_empty());
    for (number, one) in config.prefixes.iter().enumerate() {
        assert_eq!(one.trunc(), *one);
        assert!(!one.addr().is_loopback() && !one.addr().is_multicast(), "{one}");
        let others = config.prefixes.iter().take(number);
        assert!(others.clone().all(|other| !other.contains(one) && !one.contains(other)), "{one} twice");
    }
    assert!((1..=15).contains(&config.interface.len()) && !config.interface.contains('/'));
    assert!(config.port != 0 && (1280..=9000).contains(&config.mtu) && config.uid != 0);
    assert!((1..=16).contains(&config.queues));
    assert!(config.status_socket.is_absolute() && config.state.is_none_or(|path| path.is_absolute()));
    assert!(config.derp_pins.values().all(|pin| pin.len() == 64));
    Verdict::Accepted
}
