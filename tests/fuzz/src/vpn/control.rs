//! The coordination server: the tunnel to it, and its stream of maps.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use casemate_vpn::control::CAPABILITY_VERSION;
use casemate_vpn::control::client::{MAX_FRAME, MapFrames};
use casemate_vpn::control::map::{MapError, MapSettings, MapState, PolicyState, Update};
use casemate_vpn::control::wire::{BadJson, MapResponse};
use casemate_vpn::dns::{Policy, Zone};
use casemate_vpn::filter::Filter;
use casemate_vpn::key::{Machine, Node, Public, Secret};
use casemate_vpn::netmap::{Netmap, TailnetNode};
use casemate_vpn::noise::early::{self, Early};
use casemate_vpn::noise::{INITIATION_LEN, Initiator, NoiseStream, RESPONSE_LEN, respond};
use casemate_vpn::state::{Kept, NodeKey};
use time::OffsetDateTime;
use tokio::io::AsyncReadExt as _;

use super::{PREFIXES, inside, is_host};
use crate::Verdict;

const SERVER: [u8; 32] = [7; 32];
const MACHINE: [u8; 32] = [9; 32];
/// More messages than an input needs.
const MAX_MESSAGES: usize = 48;

/// `I` and an initiation, as the server reads it; `R` and a response; or `T` and what a server says in the tunnel: a place (two
/// bytes, big endian) and what its byte is changed by, the size of its writes, and the bytes.
///
/// Nothing forged opens. What the tunnel gives is what was said, in order, and a tunnel that was touched ends in an error.
pub(crate) fn noise(input: &[u8]) -> Verdict {
    match input.split_first() {
        Some((b'I', bytes)) => initiation(bytes),
        Some((b'R', bytes)) => response(bytes),
        Some((b'T', bytes)) => tunnel(bytes),
        _ => Verdict::Refused,
    }
}

fn initiation(bytes: &[u8]) -> Verdict {
    const AUTHENTIC: &[u8] = include_bytes!("../../seeds/noise/initiation");
    let Ok(bytes) = <&[u8; INITIATION_LEN]>::try_from(bytes) else { return Verdict::Refused };
    let Ok(accepted) = respond(&Secret::new(SERVER), bytes) else { return Verdict::Refused };
    assert_eq!(AUTHENTIC.get(1..), Some(bytes.as_slice()), "a forged initiation was believed");
    assert_eq!(accepted.machine, Secret::<Machine>::new(MACHINE).public());
    assert_eq!(accepted.version, CAPABILITY_VERSION);
    Verdict::Accepted
}

fn response(bytes: &[u8]) -> Verdict {
    let Ok(bytes) = <&[u8; RESPONSE_LEN]>::try_from(bytes) else { return Verdict::Refused };
    let server = Secret::new(SERVER).public();
    let started = Initiator::start(CAPABILITY_VERSION, &Secret::new(MACHINE), &server);
    let (initiator, _) = started.unwrap_or_else(|error| panic!("no initiation: {error}"));
    assert!(initiator.finish(bytes).is_err(), "a response to another initiation was believed");
    Verdict::Refused
}

fn tunnel(input: &[u8]) -> Verdict {
    let Some(([high, low, change, size], said)) = input.split_first_chunk::<4>() else {
        return Verdict::Refused;
    };
    let server = Secret::<Machine>::new(SERVER);
    let started = Initiator::start(CAPABILITY_VERSION, &Secret::new(MACHINE), &server.public());
    let (initiator, initiation) = started.unwrap_or_else(|error| panic!("no initiation: {error}"));
    let accepted = respond(&server, &initiation).unwrap_or_else(|error| panic!("not accepted: {error}"));
    let ours = initiator.finish(&accepted.response).unwrap_or_else(|error| panic!("no tunnel: {error}"));

    let mut sealer = accepted.tunnel.sealer;
    let mut wire = BytesMut::new();
    for mut write in said.chunks(usize::from(*size) * 17 + 1) {
        while !write.is_empty() {
            let taken = sealer.seal(write, &mut wire).unwrap_or_else(|error| panic!("not sealed: {error}"));
            write = write.get(taken..).unwrap_or_default();
        }
    }
    let place = usize::from(u16::from_be_bytes([*high, *low])) % wire.len().max(1);
    let touched = *change != 0 && !wire.is_empty();
    if let Some(byte) = wire.get_mut(place) {
        *byte ^= change;
    }
    // What came with the response is read first.
    let behind = wire.split_off(wire.len() / 2);
    let mut stream = NoiseStream::new(behind.as_ref(), ours, wire);
    let first = now(early::read(&mut stream)).ok();
    let expected = first_said(said);
    let Some(first) = first else {
        assert!(touched || expected.is_none(), "a good payload was refused");
        return Verdict::Refused;
    };
    let Some((early, rest)) = expected else { panic!("a payload was read that is none") };
    assert_eq!(first, early);
    let mut heard = Vec::new();
    let end = now(stream.read_to_end(&mut heard));
    if touched {
        assert!(end.is_err(), "a tunnel that was touched ended well");
        assert!(rest.starts_with(&heard), "what was heard was not said");
        return Verdict::Refused;
    }
    assert!(end.is_ok(), "{end:?}");
    assert_eq!(heard, rest);
    Verdict::accepted(early.is_some())
}

/// What the early payload is, and what follows it; `None`: neither.
fn first_said(said: &[u8]) -> Option<(Option<Early>, &[u8])> {
    let (head, rest) = said.split_first_chunk::<{ early::HEADER_LEN }>()?;
    let Some(length) = head.strip_prefix(&early::MAGIC) else { return Some((None, said)) };
    let length = u32::from_be_bytes(length.try_into().ok()?);
    if length > early::MAX_PAYLOAD {
        return None;
    }
    let (payload, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    Some((Some(serde_json::from_slice(payload).ok()?), rest))
}

/// Memory never lets anybody wait.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it waits for memory"),
    }
}

/// `F`, the size of pieces, and frames; or `P` (a policy is required) or `A`, the size of pieces, and lines: a message each, an
/// empty one for a new stream, `@` and a number for so many seconds without a message.
///
/// The map that is in force has only addresses of the prefixes, each with one owner, none of them ours; a message that is refused
/// leaves it as it was; what is said to have changed is what did; and a restart reads it as it was.
pub(crate) fn map_stream(input: &[u8]) -> Verdict {
    match input.split_first_chunk::<2>() {
        Some(([b'F', size], bytes)) => frames(usize::from(*size), bytes),
        Some(([kind @ (b'P' | b'A'), size], text)) => messages(*kind == b'P', usize::from(*size), text),
        _ => Verdict::Refused,
    }
}

/// The frames and what ended them, in pieces of this size.
fn cut(size: usize, bytes: &[u8]) -> (Vec<bytes::Bytes>, bool, bool) {
    let mut frames = MapFrames::default();
    let mut found = Vec::new();
    for piece in bytes.chunks(size.max(1)) {
        frames.extend(piece);
        loop {
            match frames.take() {
                Ok(Some(frame)) => found.push(frame),
                Ok(None) => break,
                Err(_) => return (found, true, false),
            }
        }
    }
    (found, false, frames.is_empty())
}

fn frames(size: usize, mut bytes: &[u8]) -> Verdict {
    let (found, too_long, whole) = cut(size, bytes);
    assert_eq!(cut(bytes.len(), bytes), (found.clone(), too_long, whole), "other frames in other pieces");
    for frame in &found {
        let (length, rest) = bytes.split_first_chunk::<4>().unwrap_or((&[0; 4], &[]));
        assert_eq!(u32::from_le_bytes(*length) as usize, frame.len());
        assert!(rest.starts_with(frame));
        bytes = rest.get(frame.len()..).unwrap_or_default();
    }
    let next = bytes.first_chunk::<4>().map(|length| u32::from_le_bytes(*length));
    assert_eq!(too_long, next.is_some_and(|length| length > MAX_FRAME));
    assert!(too_long || whole == bytes.is_empty());
    Verdict::accepted(whole && !found.is_empty())
}

fn messages(require_policy: bool, size: usize, text: &[u8]) -> Verdict {
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').take(MAX_MESSAGES).collect();
    let mut wire = Vec::new();
    for line in &lines {
        wire.extend(u32::try_from(line.len()).unwrap_or(u32::MAX).to_le_bytes());
        wire.extend_from_slice(line);
    }
    assert_eq!(
        cut(size, &wire),
        (lines.iter().map(|line| bytes::Bytes::copy_from_slice(line)).collect(), false, true)
    );

    let first = lines.iter().find_map(|line| serde_json::from_slice::<MapResponse>(line).ok()?.node);
    let own = first.and_then(|node| node.key.parse().ok()).unwrap_or(Public::new([1; 32]));
    let settings = MapSettings { prefixes: PREFIXES.to_vec(), require_policy };
    let mut state = MapState::new(settings, own, None);
    let mut known = BTreeMap::new();
    let mut accepted = false;
    let start = std::time::Instant::now();
    for line in lines {
        let before = state.current().cloned();
        let update = match line {
            [] => {
                state.begin_stream(own);
                None
            }
            [b'@', seconds @ ..] => {
                let seconds =
                    std::str::from_utf8(seconds).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
                let later = start.checked_add(std::time::Duration::from_secs(seconds)).unwrap_or(start);
                state.expire(later, OffsetDateTime::UNIX_EPOCH)
            }
            message => {
                let update = serde_json::from_slice(message)
                    .map_err(|error| MapError::from(BadJson::from(error)))
                    .and_then(|read| state.apply(read, start));
                if let Err(error) = &update {
                    let text = error.to_string();
                    assert!(text.len() < 4096, "{} bytes of error", text.len());
                    state.begin_stream(own);
                }
                update.ok().flatten()
            }
        };
        match update {
            Some(update) => {
                accepted = true;
                assert!(state.current().is_some_and(|current| Arc::ptr_eq(current, &update.map)));
                check(&update, before.as_deref(), own, require_policy);
                follow(&update, &mut known);
            }
            None => assert!(
                match (&before, state.current()) {
                    (Some(before), Some(after)) => Arc::ptr_eq(before, after),
                    (None, None) => true,
                    _ => false,
                },
                "the map changed, and nobody was told"
            ),
        }
    }
    Verdict::accepted(accepted)
}

/// What every map in force is.
fn check(update: &Update, before: Option<&Netmap>, own: Public<Node>, require_policy: bool) {
    let map = &update.map;
    assert_eq!(map.node.key, own);
    assert!(!map.node.addresses.is_empty());
    let ours = map.node.addresses.iter().chain(&map.node.allowed);
    assert!(ours.clone().all(|net| inside(net) && is_host(net)), "{:?}", map.node);
    let (mut keys, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    for (id, peer) in map.peers.iter() {
        assert_eq!(*id, peer.id);
        assert!(peer.key != own && !peer.key.is_zero() && keys.insert(peer.key), "the key of {peer:?}");
        for net in &peer.addresses {
            assert!(inside(net) && is_host(net), "{net} of {peer:?}");
            assert!(!ours.clone().any(|own| own == net), "{net} is ours, and of {peer:?}");
            assert!(addresses.insert(*net), "{net} has two owners");
        }
        assert!(peer.allowed.iter().all(|net| peer.addresses.contains(net)), "{peer:?}");
        assert!(!peer.expired || peer.addresses.is_empty(), "an expired peer holds addresses: {peer:?}");
        assert!(peer.name.len() <= 253 && !peer.name.bytes().any(|byte| byte.is_ascii_uppercase()));
    }
    let compiled = Filter::compile(map.filters.iter().map(|(name, text)| (name.as_str(), &**text))).filter;
    assert_eq!(compiled, *map.filter, "a restart would compile another filter");
    match update.policy {
        PolicyState::AllowAllRefused | PolicyState::Unreadable => assert_eq!(*map.filter, Filter::deny_all()),
        PolicyState::AllowAll => assert!(!require_policy),
        PolicyState::Policy => {}
    }
    if let Some(before) = before {
        let changes = &update.changes;
        assert!(changes.node || before.node == map.node);
        assert!(changes.filter || before.filter == map.filter);
        assert!(changes.derp || before.derp == map.derp);
        assert!(changes.dns || before.dns == map.dns);
    }
    restart(map);
    names(map);
}

/// Who follows the changes has the peers of the map.
fn follow(update: &Update, known: &mut BTreeMap<Public<Node>, Arc<TailnetNode>>) {
    for key in &update.changes.removed {
        assert!(known.remove(key).is_some(), "{key} was removed, and was not there");
    }
    let peers: BTreeMap<_, _> = update.map.peers.values().map(|peer| (peer.key, Arc::clone(peer))).collect();
    for key in &update.changes.changed {
        let peer = peers.get(key).unwrap_or_else(|| panic!("{key} changed, and is not there"));
        known.insert(*key, Arc::clone(peer));
    }
    assert_eq!(*known, peers, "what is said to have changed is not what did");
}

/// The map that a restart finds is the one that was kept.
fn restart(map: &Netmap) {
    const STAMP: u64 = 1_800_000_000_000_000_000;
    let (secret, next) = (Secret::<Node>::new([4; 32]), Secret::<Node>::new([6; 32]));
    let next_key = next.public();
    let mut map = map.clone();
    map.node = Arc::new(TailnetNode { key: secret.public(), ..(*map.node).clone() });
    let kept = Kept {
        machine: Secret::new(MACHINE),
        node: NodeKey { generation: 0, secret },
        next: Some(NodeKey { generation: 1, secret: next }),
        disco: Secret::new([5; 32]),
        server: None,
        refused: Vec::new(),
        stamp: STAMP,
        home: None,
        paths: BTreeMap::new(),
        login: None,
        map: Some(map.clone()),
    };
    let bytes = kept.encode().unwrap_or_else(|error| panic!("cannot be kept: {error}"));
    let again = Kept::decode(&bytes, &PREFIXES).unwrap_or_else(|error| panic!("what was kept: {error}"));
    assert_eq!(again.encode().ok(), Some(bytes));
    assert_eq!((again.stamp, again.next.map(|next| next.secret.public())), (STAMP, Some(next_key)));
    let found = again.map.unwrap_or_else(|| panic!("no map was kept"));
    assert_eq!(found.filter, map.filter);
    assert_eq!(found.peers.len(), map.peers.len());
}

/// The zone that is made of it answers nothing for the owner's allowlist.
fn names(map: &Netmap) {
    let policy = Policy {
        allowlist: vec!["*.example.com:443".to_owned(), "b.t.internal".to_owned()],
        prefixes: PREFIXES.to_vec(),
        ..Policy::default()
    };
    let zone = Zone::new(map, &Arc::new(policy));
    let listed = |name: &str| {
        ["example.com", "b.t.internal"].iter().any(|entry| {
            name.strip_suffix(entry).is_some_and(|under| under.is_empty() || under.ends_with('.'))
        })
    };
    let base = zone.base_domain();
    assert!(base.is_none_or(|base| !listed(base)));
    let nodes = std::iter::once(&map.node).chain(map.peers.values()).map(|node| node.name.as_str());
    for name in nodes.chain(map.dns.extra_records.iter().map(|record| record.name.as_str())) {
        let addresses = zone.addresses(name);
        assert!(addresses.is_empty() || !listed(name), "{name} is on the allowlist");
        let name = name.to_ascii_lowercase();
        let under = base.and_then(|base| name.strip_suffix('.').unwrap_or(&name).strip_suffix(base));
        assert!(
            addresses.is_empty() || under.is_some_and(|under| under.ends_with('.')),
            "{name} is not ours"
        );
        assert!(!addresses.iter().any(|address| address.is_loopback() || address.is_unspecified()));
    }
    assert!(zone.updated(map).is_none(), "the same map makes another zone");
}
