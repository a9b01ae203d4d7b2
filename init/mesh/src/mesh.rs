//! The whole proxy: sockets first, then the certificate, then connections.

use std::convert::Infallible;
use std::fs::File;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::challenge::Challenges;
use crate::config::{self, Config};
use crate::dial::{App, Dial, Fetched, Introduction};
use crate::dstack::{Agent, Dstack};
use crate::identity::{self, CurrentCertificate, IdentitySource};
use crate::inbound::{Inbound, Places};
use crate::logs::Logs;
use crate::outbound::{Outbound, Targets};
use crate::own_paths::OwnPaths;
use crate::peer::PeerPolicy;
use crate::shares::Shares;
use crate::upstream::Upstream;
use crate::{Attested, MeshError, io, limits, tls};

/// A mesh whose sockets are open and which serves nobody yet: what comes next may be Landlock and seccomp.
#[derive(Debug)]
pub struct Mesh {
    config: Config,
    policy: Arc<dyn PeerPolicy>,
    inbound: Vec<StdListener>,
    outbound: Vec<StdListener>,
    logs: Arc<Logs>,
    agent: Option<Arc<Agent>>,
}

/// Opens the sockets, gets a certificate, calls `ready`, serves for ever. `outbound` is in the order of
/// `config.outbound`, `logs` in that of `config.logs`.
///
/// # Errors
/// Whatever [`Mesh::open`] and [`Mesh::run`] say.
pub async fn run<S: IdentitySource>(
    config: Config,
    outbound: Vec<StdListener>,
    logs: Vec<File>,
    identity: S,
    ready: impl FnOnce(),
) -> Result<Infallible, MeshError> {
    Mesh::open(config, outbound, logs)?.run(identity, ready).await
}

impl Mesh {
    /// Opens the inbound ports and takes the outbound listeners, in the order of `config.outbound`, and the log rings, in
    /// that of `config.logs`. Peers are judged by their quotes ([`Attested`]).
    ///
    /// # Errors
    /// [`MeshError::Policy`], [`MeshError::Listeners`], [`MeshError::Logs`], [`MeshError::Listen`], [`MeshError::Handover`].
    pub fn open(config: Config, outbound: Vec<StdListener>, logs: Vec<File>) -> Result<Self, MeshError> {
        let policy = Attested::new(&config)?;
        Self::open_with(config, outbound, logs, Arc::new(policy))
    }

    /// As [`Self::open`], with another judge of peers.
    ///
    /// # Errors
    /// As [`Self::open`], without [`MeshError::Policy`].
    pub fn open_with(
        config: Config,
        outbound: Vec<StdListener>,
        logs: Vec<File>,
        policy: Arc<dyn PeerPolicy>,
    ) -> Result<Self, MeshError> {
        let (services, listeners) = (config.outbound.len(), outbound.len());
        if services != listeners {
            return Err(MeshError::Listeners { services, listeners });
        }
        let (names, rings) = (config.logs.len(), logs.len());
        if names != rings {
            return Err(MeshError::Logs { names, rings });
        }
        let logs = Logs::new(config.log_readers.clone(), config.logs.iter().cloned().zip(logs));
        for (listener, service) in outbound.iter().zip(&config.outbound) {
            listener.set_nonblocking(true).map_err(|source| handover(&service.service, source))?;
        }
        let inbound = config.backends.iter().map(|backend| io::listen(backend.listen));
        Ok(Self {
            inbound: inbound.collect::<Result<_, _>>()?,
            config,
            policy,
            outbound,
            logs: Arc::new(logs),
            agent: None,
        })
    }

    /// Services whose `dstack` is set ask the guest agent at this socket. Without this, there must be none.
    #[must_use]
    pub fn with_agent(self, socket: impl Into<PathBuf>) -> Self {
        Self { agent: Some(Arc::new(Agent::new(socket.into()))), ..self }
    }

    /// The local addresses of the inbound listeners, in the order of `config.backends`.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn listening(&self) -> std::io::Result<Vec<SocketAddr>> {
        self.inbound.iter().map(StdListener::local_addr).collect()
    }

    /// Gets a certificate, however long that takes, calls `ready`, and serves for ever. Needs a tokio runtime with
    /// I/O and time.
    ///
    /// # Errors
    /// [`MeshError::NoAgent`], [`MeshError::Tls`], [`MeshError::Listen`], [`MeshError::Handover`] before `ready`,
    /// [`MeshError::Ended`] after.
    pub async fn run<S: IdentitySource>(
        self,
        identity: S,
        ready: impl FnOnce(),
    ) -> Result<Infallible, MeshError> {
        let dstack = self.dstack()?;
        let identity = Arc::new(identity);
        let own = identity::first(&*identity).await;
        let server = tls::server(self.config.tls_min, self.policy.callers(), own.current())?;
        let all_rested = Arc::new(Semaphore::new(limits::ALL_POOLED));
        let targets = self.targets(&own, &all_rested)?;
        let places = Places::new();
        let collateral = self.policy.collateral();
        let own_paths = Arc::new(OwnPaths {
            logs: Arc::clone(&self.logs),
            collateral: collateral.clone(),
            challenges: Challenges::new(Arc::<S>::clone(&identity) as _),
        });
        let mut tasks = JoinSet::new();
        if let Some(collateral) = collateral {
            collateral.speak_for(&own.current());
            let (identity, own) = (Arc::clone(&identity), Arc::clone(&own));
            let pccs = self.config.collateral.pccs.clone();
            tasks.spawn(async move {
                collateral.run(own, pccs, |time| identity.it_is_at_least(time)).await;
                "the care for collateral".to_owned()
            });
        }

        for (listener, backend) in self.inbound.into_iter().zip(self.config.backends) {
            let address = SocketAddr::from(([0; 16], backend.listen));
            let listener =
                TcpListener::from_std(listener).map_err(|source| MeshError::Listen { address, source })?;
            let inbound = Arc::new(Inbound {
                service: backend.service,
                allow: backend.allow,
                tls: Arc::clone(&server),
                policy: Arc::clone(&self.policy),
                own: Arc::clone(&own),
                own_paths: Arc::clone(&own_paths),
                backend: Upstream::new(Dial::Service(backend.to), &all_rested),
                places: places.clone(),
            });
            tasks.spawn(async move {
                let name = format!("the inbound listener of service {}", inbound.service);
                inbound.run(listener).await;
                name
            });
        }
        let connections = Shares::new(limits::SERVICE_CONNECTIONS);
        let services = self.config.outbound.into_iter().zip(dstack);
        for (listener, (service, dstack)) in self.outbound.into_iter().zip(services) {
            let service = service.service;
            let listener = TcpListener::from_std(listener).map_err(|source| handover(&service, source))?;
            let (targets, connections) = (Arc::clone(&targets), Arc::clone(&connections));
            let outbound = Arc::new(Outbound { service, targets, connections, dstack });
            tasks.spawn(async move {
                let name = format!("the outbound listener of service {}", outbound.service);
                outbound.run(listener).await;
                name
            });
        }
        tasks.spawn(async move {
            identity::renew(identity, own, limits::RENEW).await;
            "the renewal of our certificate".to_owned()
        });
        ready();
        Err(MeshError::Ended(match tasks.join_next().await {
            Some(Ok(name)) => name,
            Some(Err(error)) => format!("a task of the mesh, with {error},"),
            None => "the mesh".to_owned(),
        }))
    }

    /// Which services may ask the guest agent, in the order of `config.outbound`.
    fn dstack(&self) -> Result<Vec<Option<Dstack>>, MeshError> {
        let asking = |service: &config::Outbound| match (service.dstack.clone(), &self.agent) {
            (None, _) => Ok(None),
            (Some(_), None) => Err(MeshError::NoAgent { service: service.service.clone() }),
            (Some(permission), Some(agent)) => {
                let (service, agent) = (service.service.clone(), Arc::clone(agent));
                Ok(Some(Dstack { service, permission, agent }))
            }
        };
        self.config.outbound.iter().map(asking).collect()
    }

    fn targets(
        &self,
        own: &Arc<CurrentCertificate>,
        all_rested: &Arc<Semaphore>,
    ) -> Result<Arc<Targets>, MeshError> {
        let upstream = |(&app, &address)| {
            let verifier = self.policy.target(&app);
            let verifier = verifier.ok_or_else(|| MeshError::Policy(format!("target {app}: no verifier")))?;
            let tls = tls::client(self.config.tls_min, verifier, Arc::clone(own))?;
            let dial = Dial::App(App {
                address,
                app,
                tls,
                policy: Arc::clone(&self.policy),
                fetched: Fetched::default(),
                introduction: Introduction::default(),
            });
            Ok((app, Upstream::new(dial, all_rested)))
        };
        let upstreams = self.config.targets.iter().map(upstream).collect::<Result<_, MeshError>>()?;
        Ok(Arc::new(Targets { addresses: self.config.targets.clone(), upstreams }))
    }
}

fn handover(service: &str, source: std::io::Error) -> MeshError {
    MeshError::Handover { service: service.to_owned(), source }
}
