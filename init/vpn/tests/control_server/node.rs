//! A session against the server, as a test drives it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use casemate_vpn::control::client::ClientSettings;
use casemate_vpn::control::join::{AuthKey, Phase, RefusalKind};
use casemate_vpn::control::map::{Changes, MapSettings, PolicyState};
use casemate_vpn::control::session::{ControlEvent, HostState, Identity, SessionConfig, Timing, run};
use casemate_vpn::dial::Dialer;
use casemate_vpn::key::{Disco, Machine, Node, Public, Secret};
use casemate_vpn::netmap::Netmap;
use ipnet::IpNet;
use rustls::RootCertStore;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::ControlServer;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn prefixes() -> Vec<IpNet> {
    vec!["100.64.0.0/10".parse().unwrap(), "fd7a:115c:a1e0::/48".parse().unwrap()]
}

pub(crate) struct TestNode {
    pub(crate) machine: Secret<Machine>,
    pub(crate) node: Secret<Node>,
    pub(crate) host: watch::Sender<HostState>,
    pub(crate) auth: watch::Sender<Option<AuthKey>>,
    pub(crate) events: mpsc::Receiver<ControlEvent>,
    pub(crate) task: tokio::task::JoinHandle<()>,
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) struct Setup {
    pub(crate) url: String,
    pub(crate) pin: Option<Public<Machine>>,
    pub(crate) plain_http: bool,
    pub(crate) roots: RootCertStore,
    pub(crate) known: bool,
    pub(crate) others: Vec<Secret<Node>>,
    pub(crate) map: Option<Arc<Netmap>>,
    pub(crate) key: Option<&'static str>,
    pub(crate) require_policy: bool,
    pub(crate) timing: Timing,
}

impl Setup {
    pub(crate) fn new(server: &ControlServer) -> Self {
        Self {
            url: server.url(),
            pin: None,
            plain_http: false,
            roots: RootCertStore::empty(),
            known: false,
            others: Vec::new(),
            map: None,
            key: Some("hskey-auth-test"),
            require_policy: false,
            timing: Timing::default(),
        }
    }

    pub(crate) fn start(self) -> TestNode {
        let (machine, node) = (Secret::generate().unwrap(), Secret::generate().unwrap());
        let config = SessionConfig {
            client: ClientSettings {
                url: self.url.parse().unwrap(),
                pin: self.pin,
                plain_http: self.plain_http,
                roots: Arc::new(self.roots),
            },
            map: MapSettings { prefixes: prefixes(), require_policy: self.require_policy },
            timing: self.timing,
        };
        let identity = Identity {
            machine: machine.clone(),
            node: node.clone(),
            others: self.others,
            known: self.known,
            refused: Vec::new(),
            map: self.map,
        };
        let (host, host_receiver) = watch::channel(HostState {
            hostname: "node-1".into(),
            disco: Secret::<Disco>::generate().unwrap().public(),
            endpoints: Vec::new(),
            home: None,
            working_udp: true,
            network: 0,
            slept: Duration::ZERO,
        });
        let (auth, auth_receiver) = watch::channel(self.key.and_then(AuthKey::new));
        let (sender, events) = mpsc::channel(16);
        let task = tokio::spawn(async move {
            run(
                config,
                Arc::new(Dialer::new(Vec::new(), None, None)),
                identity,
                host_receiver,
                auth_receiver,
                sender,
            )
            .await
            .unwrap();
        });
        TestNode { machine, node, host, auth, events, task }
    }
}

impl TestNode {
    pub(crate) fn start(server: &ControlServer) -> Self {
        Setup::new(server).start()
    }

    /// A first map with these peers.
    pub(crate) fn first_map(&self, peers: &[Value]) -> Value {
        json!({ "Node": { "ID": 1, "Name": "Node-1.t.internal.", "Key": self.node.public(), "Addresses": ["100.64.0.1/32"] }, "Peers": peers })
    }

    /// The next event that a test looks for.
    pub(crate) async fn until<T>(&mut self, mut wanted: impl FnMut(ControlEvent) -> Option<T>) -> T {
        let search = async {
            loop {
                if let Some(found) = wanted(self.events.recv().await.expect("the session goes on")) {
                    return found;
                }
            }
        };
        within(search).await
    }

    pub(crate) async fn next_map(&mut self) -> (Arc<Netmap>, Changes, PolicyState) {
        self.until(|event| match event {
            ControlEvent::Netmap { map, changes, policy, .. } => Some((map, changes, policy)),
            _ => None,
        })
        .await
    }

    pub(crate) async fn until_phase(&mut self, wanted: Phase) -> Option<(RefusalKind, String)> {
        self.until(|event| match event {
            ControlEvent::Joining { phase, refusal } if phase == wanted => {
                Some(refusal.map(|refusal| (refusal.kind, refusal.text)))
            }
            _ => None,
        })
        .await
    }

    pub(crate) async fn disconnected(&mut self) -> String {
        self.until(|event| match event {
            ControlEvent::Disconnected { reason } => Some(reason),
            _ => None,
        })
        .await
    }
}

/// What must come, in a time that a busy machine has.
pub(crate) async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it comes in time")
}

/// Until something is so.
pub(crate) async fn eventually(mut is: impl FnMut() -> bool) {
    within(async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
