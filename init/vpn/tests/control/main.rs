//! Client and session against a scripted coordination server.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on may panic"
)]

#[path = "../control_server/mod.rs"]
mod control_server;
mod joining;
mod stream;
mod transport;

use std::sync::Arc;

use casemate_vpn::control::client::{Client, ClientSettings};
use casemate_vpn::dial::Dialer;
use control_server::ControlServer;
use rustls::RootCertStore;
use serde_json::{Value, json};

fn client(server: &ControlServer, change: impl FnOnce(&mut ClientSettings)) -> Client {
    let mut settings = ClientSettings {
        url: server.url().parse().unwrap(),
        pin: None,
        plain_http: false,
        roots: Arc::new(RootCertStore::empty()),
    };
    change(&mut settings);
    Client::new(settings, Arc::new(Dialer::new(Vec::new(), None, None))).unwrap()
}

fn peer(id: u64) -> Value {
    let address = format!("100.64.{}.{}/32", id / 256, id % 256);
    json!({ "ID": id, "Name": format!("n{id}.t.internal."), "Key": format!("nodekey:{id:064x}"), "Addresses": [address],
            "DiscoKey": format!("discokey:{id:064x}"), "Hostinfo": { "OS": "linux" }, "Endpoints": ["192.0.2.1:41641"] })
}
