//! The counters of the document in the text format of Prometheus (exposition format 0.0.4).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{PathStatus, PeerStatus, Status};

/// The metrics of a document. Labels hold names of peers, their public keys and reasons of ours only.
pub fn metrics(status: &Status) -> String {
    let mut out = String::new();
    gauge(
        &mut out,
        "casemate_vpn_running",
        "1 while a map is in force, of this run or of an earlier one",
        u64::from(status.state == "running"),
    );
    gauge(
        &mut out,
        "casemate_vpn_control_connected",
        "1 while a map stream is open",
        u64::from(status.control.connected),
    );
    if let Some(seconds) = status.control.last_map_seconds {
        gauge(
            &mut out,
            "casemate_vpn_control_silence_seconds",
            "since the coordination server last said something",
            seconds,
        );
    }
    ourselves(&mut out, status);
    let count = |wanted: fn(&PathStatus) -> bool| {
        status.peers.iter().filter(|peer| wanted(&peer.path)).count() as u64
    };
    head(&mut out, "casemate_vpn_peers", "gauge", "peers, by how they are reached");
    let kinds = [
        ("direct", count(|path| matches!(path, PathStatus::Direct { .. }))),
        ("relayed", count(|path| matches!(path, PathStatus::Relayed { .. }))),
        ("none", count(|path| matches!(path, PathStatus::None {}))),
    ];
    for (kind, number) in kinds {
        line(&mut out, "casemate_vpn_peers", "path", kind, number);
    }
    peers(&mut out, &status.peers);
    let tables: [(&str, &str, &BTreeMap<String, u64>); 3] = [
        (
            "casemate_vpn_filter_dropped_packets_total",
            "packets that the filter dropped",
            &status.filter.dropped,
        ),
        (
            "casemate_vpn_dropped_packets_total",
            "packets that went nowhere, but for relay-out (batches), disco-refused (messages) and map-* (parts of maps)",
            &status.drops,
        ),
        ("casemate_vpn_dns_queries_total", "queries of names", &status.dns),
    ];
    for (name, help, table) in tables {
        head(&mut out, name, "counter", help);
        for (reason, number) in table {
            line(&mut out, name, "reason", reason, *number);
        }
    }
    out
}

/// What is to be watched of ourselves.
fn ourselves(out: &mut String, status: &Status) {
    let expiry = status.node.as_ref().and_then(|node| node.key_expiry.as_deref());
    let expiry = expiry.and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
    if let Some(seconds) = expiry.and_then(|at| u64::try_from(at.unix_timestamp()).ok()) {
        gauge(out, "casemate_vpn_key_expiry_timestamp_seconds", "when our node key ends", seconds);
    }
    if let Some(node) = &status.node {
        let set = u64::from(node.addresses_refused.is_none());
        gauge(out, "casemate_vpn_addresses_set", "1 while our addresses are on the interface", set);
    }
    if let Some(refusal) = &status.refusal {
        head(out, "casemate_vpn_refused", "gauge", "1 while the coordination server refuses us");
        line(out, "casemate_vpn_refused", "kind", &refusal.kind, 1);
    }
    if let Some(home) = status.derp.home {
        gauge(out, "casemate_vpn_derp_home_region", "the home relay's region", home.0.into());
        let connected = u64::from(status.derp.connected.contains(&home));
        gauge(out, "casemate_vpn_derp_home_connected", "1 while the home relay is connected", connected);
    }
}

type Value = fn(&PeerStatus) -> Option<u64>;

fn peers(out: &mut String, peers: &[PeerStatus]) {
    let mut names = BTreeSet::new();
    let twice: BTreeSet<&str> =
        peers.iter().map(|peer| peer.name.as_str()).filter(|name| !names.insert(*name)).collect();
    let tables: [(&str, &str, &str, Value); 3] = [
        (
            "casemate_vpn_peer_received_bytes_total",
            "counter",
            "bytes from a peer, without WireGuard's own",
            |peer| Some(peer.rx_bytes),
        ),
        (
            "casemate_vpn_peer_sent_bytes_total",
            "counter",
            "bytes to a peer, without WireGuard's own",
            |peer| Some(peer.tx_bytes),
        ),
        (
            "casemate_vpn_peer_handshake_age_seconds",
            "gauge",
            "since the last handshake with a peer, of those that had one",
            |peer| peer.last_handshake_seconds,
        ),
    ];
    for (name, kind, help, value) in tables {
        head(out, name, kind, help);
        for peer in peers {
            let Some(number) = value(peer) else { continue };
            // Two series with the same labels make all of the document void: the whole key, since whoever names peers makes keys of
            // one head as well.
            if twice.contains(peer.name.as_str()) {
                let (peer, key) = (escaped(&peer.name), peer.key);
                let _ = writeln!(out, "{name}{{peer=\"{peer}\",key=\"{key}\"}} {number}");
            } else {
                line(out, name, "peer", &peer.name, number);
            }
        }
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn gauge(out: &mut String, name: &str, help: &str, value: u64) {
    head(out, name, "gauge", help);
    let _ = writeln!(out, "{name} {value}");
}

fn line(out: &mut String, name: &str, label: &str, value: &str, number: u64) {
    let _ = writeln!(out, "{name}{{{label}=\"{}\"}} {number}", escaped(value));
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
