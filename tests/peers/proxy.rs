//! The mesh of a machine, started as PID 1 starts it.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};

use casemate_mesh::{Config, Mesh, Trust};
use tokio::sync::oneshot;

use crate::backend::Backend;
use crate::machine::Machine;

/// A running mesh. It ends with the test's runtime.
#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    /// Where its first backend is served.
    pub(crate) inbound: SocketAddr,
    /// Where the proxy of its first service listens.
    pub(crate) outbound: SocketAddr,
}

/// Starts the mesh of a machine in front of a backend and waits until it is ready.
///
/// The configuration is what the machine's document says, but for addresses, since here every port is a free one of the
/// loopback, and but for what the test changes.
pub(crate) async fn start(machine: &Machine, backend: &Backend, change: impl FnOnce(&mut Config)) -> Proxy {
    start_with(machine, backend, Vec::new(), change).await
}

/// As [`start`], with log rings, whose names and readers are the change's.
pub(crate) async fn start_with(
    machine: &Machine,
    backend: &Backend,
    logs: Vec<File>,
    change: impl FnOnce(&mut Config),
) -> Proxy {
    crate::log::keep();
    let (launch, app, compose) = (machine.launch, machine.app, machine.compose);
    let mut config = Config::of(machine.section(), launch, app, compose, Trust::Simulator).unwrap();
    for served in &mut config.backends {
        served.listen = 0;
        served.to = backend.address;
    }
    change(&mut config);
    let services = config.outbound.iter().map(|_| StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let services: Vec<StdListener> = services.collect();
    let outbound = services[0].local_addr().unwrap();
    let mesh = Mesh::open(config, services, logs).unwrap().with_agent(machine.agent().path());
    let inbound = SocketAddr::from((Ipv4Addr::LOCALHOST, mesh.listening().unwrap()[0].port()));
    let (ready, is_ready) = oneshot::channel();
    let identity = machine.identity();
    tokio::spawn(async move {
        let ended = mesh.run(identity, || ready.send(()).unwrap()).await;
        panic!("the mesh ended: {ended:?}");
    });
    is_ready.await.unwrap();
    Proxy { inbound, outbound }
}
