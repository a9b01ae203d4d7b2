//! The whole node, on a socket pair in the place of the TUN.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that cannot go on may panic"
)]

mod applied;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::sync::Mutex;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::*;
use crate::filter::Filter;
use crate::key::{Disco, Secret};
use crate::netmap::{DerpMap, DnsConfig, NodeId, RegionId, TailnetNode};
use crate::parent::message::{Answer, LONGEST, Message, Standing};
use crate::parent::slots;
use crate::state::Kept;

/// What is said beside messages.
pub(super) const BEAT: &[u8] = b"w";

/// What is logged, a line each.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    most: Level,
    said: Arc<Mutex<Vec<String>>>,
}

impl Lines {
    /// Those of this level, and of worse.
    pub(super) fn up_to(most: Level) -> Self {
        Self { most, said: Arc::default() }
    }

    pub(super) fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.most
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        struct Line(String);
        impl Visit for Line {
            fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
                self.0 += &format!("{field}={value:?} ");
            }
        }
        let mut line = Line(String::new());
        event.record(&mut line);
        self.said.lock().unwrap().push(line.0);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// What a run before kept, with so many peers.
pub(super) fn kept(peers: u32) -> Kept {
    let secret = Secret::<NodeKind>::generate().unwrap();
    let node = |number: u32, key| {
        let [_, a, b, c] = number.to_be_bytes();
        // Not where names are asked for, whatever the number.
        let addresses = [format!("100.{}.{b}.{c}/32", 64 | a), format!("fd7a:115c:a1e0::1:{number:x}/128")];
        let addresses: Vec<ipnet::IpNet> = addresses.map(|text| text.parse().unwrap()).to_vec();
        Arc::new(TailnetNode {
            id: NodeId(number.into()),
            key,
            disco: Some(Public::<Disco>::new(*key.bytes())),
            name: format!("node-{number}.tailnet.internal"),
            allowed: addresses.clone(),
            addresses,
            endpoints: vec!["192.0.2.1:41641".parse().unwrap(), "[2001:db8::1]:41641".parse().unwrap()],
            home: Some(RegionId(999)),
            online: Some(true),
            tags: vec!["tag:internal-only".to_owned()],
            key_expiry: None,
            expired: false,
        })
    };
    let key = |number: u32| {
        let mut bytes = [7; 32];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        Public::<NodeKind>::new(bytes)
    };
    let others: BTreeMap<_, _> =
        (2..peers + 2).map(|number| (NodeId(number.into()), node(number, key(number)))).collect();
    let address = "192.0.2.1:41641".parse().unwrap();
    Kept {
        login: None,
        machine: Secret::generate().unwrap(),
        disco: Secret::generate().unwrap(),
        server: Some(Secret::generate().unwrap().public()),
        refused: Vec::new(),
        stamp: 1,
        home: Some(RegionId(999)),
        paths: others.values().take(1024).map(|peer| (peer.key, address)).collect(),
        map: Some(Netmap {
            node: node(1, secret.public()),
            peers: Arc::new(others),
            derp: Arc::new(DerpMap::default()),
            dns: Arc::new(DnsConfig::default()),
            filter: Arc::new(Filter::deny_all()),
            filters: Arc::default(),
        }),
        node: NodeKey { generation: 0, secret },
        next: None,
    }
}

pub(super) fn prefixes() -> Vec<ipnet::IpNet> {
    vec!["100.64.0.0/10".parse().unwrap(), "fd7a:115c:a1e0::/48".parse().unwrap()]
}

fn pair() -> (OwnedFd, OwnedFd) {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap()
}

/// The two ends of the report socket.
pub(super) fn report_socket() -> (OwnedFd, UnixDatagram) {
    let (ours, theirs) = pair();
    (ours, UnixDatagram::from(theirs))
}

/// A plane, and the kernel's end of its TUN.
pub(super) fn plane() -> (Plane, OwnedFd) {
    let (os, tun) = pair();
    let (channels, _receivers) = plane::channels();
    let config = plane::Config {
        tun: vec![Tun::pretend(tun)],
        features: Features { tcp: true, udp: true },
        udp: sockets(Vec::new(), 0).unwrap(),
        key: Secret::new([1; 32]),
        channels,
    };
    (Plane::start(config).unwrap(), os)
}

/// Nobody listens where its login server is.
pub(super) fn config() -> Config {
    serde_json::from_value(json!({
        "login_server": { "url": "http://127.0.0.1:1", "noise_key": null, "authkey": null, "plain_http": false },
        "hostname": "n", "prefixes": prefixes(), "derp_pins": {}, "require_policy": true, "expected_tag": null,
        "interface": "t", "port": 0, "mtu": 1280, "ipv6": true,
        "dns": { "listen": false, "resolvers": [], "internal_only": false, "allowlist": [] }, "roots": null,
        "keys": { "from": "random" }, "debug_use_derp_http": false,
        "descriptors": { "status": true, "udp": 0, "dns": [], "queues": 1 }
    }))
    .unwrap()
}

/// Asks how it stands. A node that waits for its parent does not answer.
async fn status(at: &std::path::Path) -> Value {
    let asked = async {
        let mut stream = UnixStream::connect(at).await.unwrap();
        stream.write_all(b"{\"command\":\"status\"}\n").await.unwrap();
        let mut line = String::new();
        stream.read_to_string(&mut line).await.unwrap();
        serde_json::from_str(&line).unwrap()
    };
    timeout(Duration::from_secs(5), asked).await.expect("the node waits for somebody")
}

/// What the parent finds, but for beats.
pub(super) fn heard(parent: &UnixDatagram) -> Vec<Message> {
    let mut found = Vec::new();
    let mut bytes = [0; LONGEST];
    while let Ok(length) = parent.recv(&mut bytes) {
        if &bytes[..length] != BEAT {
            found.push(Message::decode(&bytes[..length]).unwrap());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_parent_that_reads_nothing_for_ten_seconds_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("status");
    let memory = slots::create().unwrap();
    let slots = Slots::new(memory.try_clone().unwrap()).unwrap();
    slots.write(&kept(1).encode().unwrap()).unwrap();
    let (ours, parent) = report_socket();
    let beats = UnixDatagram::from(ours.try_clone().unwrap());
    while beats.send(BEAT).is_ok() {}
    let (_os, tun) = pair();
    let handover = Handover {
        registration: None,
        config: config(),
        state: memory,
        requests: Requests::new(ours),
        status: Some(UnixListener::bind(&at).unwrap()),
        udp: Vec::new(),
        dns: Vec::new(),
        tun: Vec::new(),
    };
    let features = Features { tcp: true, udp: true };
    let node = tokio::spawn(run_on(vec![Tun::pretend(tun)], features, handover, || {}));

    for _second in 0..10 {
        let found = status(&at).await;
        assert_eq!((&found["state"], found["peers"].as_array().unwrap().len()), (&json!("running"), 1));
        assert_eq!(found["self"]["addresses_refused"], Value::Null, "nobody refused them");
        sleep(Duration::from_secs(1)).await;
        assert!(!node.is_finished());
    }
    // What is to be kept is written, whether anybody looks or not: the map has no relay, so that there is no home any more.
    let written = Kept::decode(&slots.read().unwrap(), &prefixes()).unwrap();
    assert_eq!((written.home, written.map.map(|map| map.peers.len())), (None, Some(1)));

    // Now it reads, and is told what holds: each thing once.
    let mut found = heard(&parent);
    let end = Instant::now() + Duration::from_secs(60);
    let has = |found: &[Message], what: fn(&Message) -> bool| found.iter().any(what);
    while !(has(&found, |message| matches!(message, Message::Kept))
        && has(&found, |message| matches!(message, Message::Report(_)))
        && has(&found, |message| matches!(message, Message::SetNetwork(_))))
    {
        assert!(Instant::now() < end, "{found:?}");
        sleep(Duration::from_millis(50)).await;
        found.extend(heard(&parent));
    }
    assert!(found.len() <= 6, "what it could not say did not pile up: {found:?}");
    for message in &found {
        match message {
            Message::Report(report) => {
                assert_eq!((report.standing, report.peers), (Standing::Running, 1));
            }
            Message::SetNetwork(request) => {
                assert_eq!(request.addresses.len(), 2);
                let answer = Answer { sequence: request.sequence, outcome: Ok(()) };
                parent.send(&answer.encode()).unwrap();
            }
            Message::SetServer(_) => panic!("there is no lock"),
            Message::Kept => {}
        }
    }
    status(&at).await;
    node.abort();
}
