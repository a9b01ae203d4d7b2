//! What the server, the parent and others say takes effect: a node that nobody drives, with a parent that answers.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde_json::{Value, json};

use super::super::*;
use super::Lines;
use crate::control::join::RefusalKind;
use crate::control::map::{MapSettings, MapState, Update};
use crate::key::Secret;
use crate::netmap::RegionId;
use crate::parent::message::{Answer, LONGEST, Message};
use crate::parent::network::Refusal as Refused;
use crate::parent::slots;
use crate::path::Route;
use crate::state::Kept;

/// A node, and what must live as long as it.
struct Rig {
    node: Node,
    ends: Ends,
    map: Option<Arc<Netmap>>,
    state: MapState,
    /// What its parent keeps.
    slots: Slots,
    _os: OwnedFd,
}

fn config() -> Config {
    Config { require_policy: false, ..super::config() }
}

fn kept() -> Kept {
    Kept {
        login: None,
        machine: Secret::new([1; 32]),
        node: NodeKey { generation: 0, secret: Secret::new([2; 32]) },
        next: None,
        disco: Secret::new([3; 32]),
        server: None,
        refused: Vec::new(),
        stamp: 0,
        home: None,
        paths: BTreeMap::new(),
        map: None,
    }
}

fn own() -> Public<NodeKind> {
    kept().node.secret.public()
}

fn key(number: u8) -> Public<NodeKind> {
    Secret::new([number; 32]).public()
}

fn state() -> MapState {
    let settings = MapSettings { prefixes: config().prefixes, require_policy: false };
    MapState::new(settings, own(), None)
}

/// A parent that answers each question alike, until the node is gone.
fn parent(outcome: Result<(), Refused>) -> Requests {
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
    let theirs = UnixDatagram::from(theirs);
    std::thread::spawn(move || {
        let mut bytes = [0; LONGEST];
        while let Some(length) = theirs.recv(&mut bytes).ok().filter(|length| *length > 0) {
            if let Ok(Message::SetNetwork(asked)) = Message::decode(&bytes[..length]) {
                let _gone = theirs.send(&Answer { sequence: asked.sequence, outcome }.encode());
            }
        }
    });
    Requests::new(ours)
}

async fn rig(kept: &Kept, outcome: Result<(), Refused>) -> Rig {
    rig_of(config(), kept, outcome).await
}

async fn rig_of(config: Config, kept: &Kept, outcome: Result<(), Refused>) -> Rig {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let (os, tun) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
    let memory = slots::create().unwrap();
    let slots = Slots::new(memory.try_clone().unwrap()).unwrap();
    slots.write(&kept.encode().unwrap()).unwrap();
    let opened = Opened {
        settings: Arc::new(Settings::new(&config, false).unwrap()),
        registration: None,
        config,
        slots: Slots::new(memory).unwrap(),
        requests: parent(outcome),
        status: None,
        dns: dns::Listeners { udp: Vec::new(), tcp: Vec::new() },
        tun: vec![Tun::pretend(tun)],
        features: Features { tcp: true, udp: true },
        udp: sockets(Vec::new(), 0).unwrap(),
        port: 1,
    };
    let (node, ends, map) = start(opened, || {}).await.unwrap();
    Rig { node, ends, map, state: state(), slots, _os: os }
}

impl Rig {
    /// What the server says takes effect.
    fn server_says(&mut self, message: Value) {
        let Update { map, changes, .. } = said(&mut self.state, message);
        self.node.apply(Instant::now(), map, &changes);
    }

    fn route(&self, peer: u8) -> Option<Route> {
        self.node.plane.peer(&key(peer)).map(|peer| peer.route())
    }
}

fn said(state: &mut MapState, message: Value) -> Update {
    let message = serde_json::from_str(&message.to_string()).unwrap();
    state.apply(message, Instant::now()).unwrap().unwrap()
}

fn us() -> Value {
    json!({ "ID": 1, "Key": own(), "Addresses": ["100.64.0.1/32"] })
}

fn peer(number: u8, expiry: &str) -> Value {
    let address = format!("100.64.0.{number}/32");
    json!({
        "ID": number, "Key": key(number), "Addresses": [address], "AllowedIPs": [address], "HomeDERP": 7,
        "KeyExpiry": expiry,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_whose_key_lives_again_is_reached_as_before() {
    let mut rig = rig(&kept(), Ok(())).await;
    let by_relay = Route { direct: None, relay: Some(RegionId(7)) };
    let first = json!({
        "Node": us(), "Peers": [peer(5, "2030-01-01T00:00:00Z")], "ControlTime": "2029-01-01T00:00:00Z",
    });
    rig.server_says(first);
    assert_eq!(rig.route(5), Some(by_relay));
    let ended = json!({ "PeersChanged": [peer(5, "2028-01-01T00:00:00Z")] });
    rig.server_says(ended);
    assert_eq!(rig.route(5), None, "a key that has ended opens no session");
    let extended = json!({ "PeersChanged": [peer(5, "2031-01-01T00:00:00Z")] });
    rig.server_says(extended);
    assert_eq!(rig.route(5), Some(by_relay));
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_the_parent_refuses_are_not_ours_and_are_told_of() {
    for (outcome, ours) in [(Err(Refused::Outside), false), (Ok(()), true)] {
        let mut rig = rig(&kept(), outcome).await;
        rig.server_says(json!({ "Node": us() }));
        let outcome = rig.ends.assignments.recv().await.unwrap();
        rig.node.on_assigned(Instant::now(), outcome);
        assert_eq!(!rig.node.assignment.set().is_empty(), ours);
        let status = rig.node.status(Instant::now()).node.unwrap();
        assert_eq!(status.addresses_refused.is_none(), ours, "{:?}", status.addresses_refused);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_learns_of_each_address_that_comes_or_goes_and_of_a_sleep() {
    let mut node = rig(&kept(), Ok(())).await.node;
    let known = |node: &Node| (node.host.borrow().network, node.host.borrow().slept.as_secs());
    let [a, b]: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()];
    // A machine that has no address yet, then gets one, and one more, and loses the first.
    for (count, addresses) in [(0, vec![]), (1, vec![a]), (1, vec![a]), (2, vec![a, b]), (3, vec![b])] {
        node.take_addresses(Instant::now(), addresses, None);
        assert_eq!(known(&node), (count, 0));
    }
    node.take_addresses(Instant::now(), vec![b], Some(Duration::from_secs(60)));
    assert_eq!(known(&node), (4, 60));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_kept_maps_filter_is_is_known_before_the_server_says_it() {
    let rule = json!([{ "SrcIPs": ["100.64.0.5"], "DstPorts": [{ "IP": "*", "Ports": { "First": 1, "Last": 2 } }] }]);
    let all =
        json!([{ "SrcIPs": ["*"], "DstPorts": [{ "IP": "*", "Ports": { "First": 0, "Last": 65535 } }] }]);
    for (filter, require_policy, allow_all, standing) in
        [(&all, false, true, "running"), (&all, true, false, "no-policy"), (&rule, true, false, "running")]
    {
        let map = said(&mut state(), json!({ "Node": us(), "PacketFilter": filter })).map;
        let kept = Kept { map: Some((*map).clone()), ..kept() };
        let mut rig = rig_of(Config { require_policy, ..config() }, &kept, Ok(())).await;
        rig.node.adopt(Instant::now(), rig.map.take().unwrap());
        let status = rig.node.status(Instant::now());
        assert_eq!((status.filter.allow_all, status.state.as_str()), (allow_all, standing));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_relays_flood_pushes_no_others_connection_out() {
    let rig = rig(&kept(), Ok(())).await;
    relays::tests::a_flood_pushes_no_connection_out(&rig.node.plane).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_accepted_of_a_map_has_one_name() {
    let mut rig = rig(&kept(), Ok(())).await;
    rig.server_says(json!({ "Node": us(), "Peers": [{ "ID": 9, "Key": "nonsense" }] }));
    *rig.node.map_drops = rig.state.drops().clone();
    let drops = rig.node.status(Instant::now()).drops;
    assert_eq!(drops.get("map-bad-key"), Some(&1), "{drops:?}");
    assert!(drops.keys().all(|name| !name.contains('_') && !name.contains("map-map")), "{drops:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_does_not_say_how_much_is_logged_nor_what() {
    let Rig { mut node, mut state, ends: _ends, .. } = rig(&kept(), Err(Refused::Outside)).await;
    let start = Instant::now();
    // Each message has another name, another domain, another policy, and our key ended or not; no domain is one.
    let messages: Vec<_> = (0..60)
        .map(|round| {
            let mut us = us();
            us["Name"] = json!(format!("hskey-auth-{round}."));
            let dns = json!({ "Proxied": true, "Domains": [format!("hskey-auth-{round}")] });
            said(&mut state, json!({ "Node": us, "DNSConfig": dns }))
        })
        .collect();
    let lines = Lines::up_to(tracing::Level::INFO);
    let listening = tracing::subscriber::set_default(lines.clone());
    for (round, Update { map, changes, .. }) in (0..).zip(messages) {
        let now = start + Duration::from_secs(round);
        let ended = round % 2 == 0;
        let refusal = ended.then(|| Refusal::new(RefusalKind::NodeKeyExpired, ""));
        node.on_control(now, ControlEvent::Joining { phase: Phase::Joined, refusal }).await.unwrap();
        let policy = if ended { PolicyState::AllowAll } else { PolicyState::Policy };
        node.apply(now, Arc::clone(&map), &changes);
        node.on_control(now, ControlEvent::Netmap { map, changes, policy, drops: Box::default() })
            .await
            .unwrap();
        node.assignment.want(&[]);
        node.assignment.ask(now);
        node.on_assigned(now, if ended { Ok(()) } else { Err(RequestError::TooMany) });
    }
    drop(listening);
    let said = lines.said();
    // So many at once, and then one in ten seconds.
    assert!((8..=8 + 6).contains(&said.len()), "{said:#?}");
    assert!(said.iter().all(|line| !line.contains("hskey")), "{said:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn that_a_key_was_refused_is_kept_before_anything_else_happens() {
    let mut rig = rig(&kept(), Ok(())).await;
    let refused = crate::state::Refused { digest: [7; 32], text: "authkey already used".to_owned() };
    rig.node.on_control(Instant::now(), ControlEvent::KeyRefused(refused.clone())).await.unwrap();
    // Nobody drives the node: it may as well have been killed.
    let found = Kept::decode(&rig.slots.read().unwrap(), &config().prefixes).unwrap();
    assert_eq!(found.refused, [refused]);
}

#[tokio::test(flavor = "multi_thread")]
async fn why_the_session_ended_is_why_the_node_ends() {
    let mut rig = rig(&kept(), Ok(())).await;
    // It drops what it tells by before it can say why.
    rig.ends.heard = mpsc::channel(1).1;
    rig.ends.session = tokio::spawn(async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        Err(session::SessionError::NoRandom(NoRandom))
    });
    let ended = rig.node.drive(rig.ends, None).await.unwrap_err();
    assert!(matches!(ended, NodeError::Session(_)), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_that_could_not_be_sealed() {
    // A public key of order one gives the same secret to everybody.
    let weak = format!("discokey:01{}", "00".repeat(31));
    let good = Secret::<crate::key::Disco>::new([9; 32]).public().to_string();
    for (disco, is_sent) in [(weak, false), (good, true)] {
        let mut rig = rig(&kept(), Ok(())).await;
        let relay = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = relay.local_addr().unwrap().port();
        let mut peer = peer(5, "2030-01-01T00:00:00Z");
        peer["DiscoKey"] = json!(disco);
        // No home, so that it is connected to for this peer or not at all.
        let node = json!({ "Name": "7a", "RegionID": 7, "HostName": "127.0.0.1", "IPv4": "127.0.0.1", "DERPPort": port, "STUNPort": -1 });
        let region = json!({ "RegionID": 7, "RegionCode": "t", "NoMeasureNoHome": true, "Nodes": [node] });
        rig.server_says(json!({ "Node": us(), "Peers": [peer], "DERPMap": { "Regions": { "7": region } } }));
        rig.node.paths.discover(Instant::now(), &key(5), &mut rig.node.actions);
        rig.node.act(Instant::now());
        let patience = Duration::from_millis(if is_sent { 10_000 } else { 300 });
        let connected = tokio::time::timeout(patience, relay.accept()).await;
        assert_eq!(connected.is_ok(), is_sent, "{disco}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_offered_is_visible_ascii() {
    let mut node = rig(&kept(), Ok(())).await.node;
    let mut offer = |key: &str| {
        let (answer, mut answers) = mpsc::channel(1);
        let authkey = crate::parent::AuthKey::new(key.to_owned());
        node.on_ask(Instant::now(), Ask { request: Request::Offer { authkey }, answer });
        let taken = node.auth.borrow().as_ref().map(|key| key.expose().to_owned());
        (answers.try_recv().unwrap() == "{}", taken)
    };
    for none in ["", " ", "hskey auth", "hskey\u{e9}", "hskey\0"] {
        assert_eq!(offer(none), (false, None), "{none:?}");
    }
    assert_eq!(offer("hskey-auth-1\n"), (true, Some("hskey-auth-1".to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_admit_any_node_key_that_it_was_shown() {
    let mut rig = rig(&kept(), Ok(())).await;
    let now = Instant::now();
    let mut keys = vec![own()];
    for _ in 0..2 {
        let (reply, made) = tokio::sync::oneshot::channel();
        let needed = ControlEvent::NodeKeyNeeded { after: keys[keys.len() - 1], reply };
        rig.node.on_control(now, needed).await.unwrap();
        let key = rig.ends.made_keys.recv().await.unwrap();
        rig.node.on_made_key(now, key);
        keys.push(made.await.unwrap().public());
    }
    // Of the second key no answer came; it was said to have ended, so a third was made; and then it was admitted after all.
    rig.node.on_control(now, ControlEvent::Admitted { node: keys[1] }).await.unwrap();
    assert_eq!(rig.node.keeper.kept.node.secret.public(), keys[1]);
    assert!(rig.node.keeper.kept.next.is_none());
}
