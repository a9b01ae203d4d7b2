//! The counters of the document in the text format of Prometheus (exposition format 0.0.4).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{PathStatus, Status};

/// The metrics of a document. Labels hold names of peers and reasons of ours only.
pub fn metrics(status: &Status) -> String {
    let mut out = String::new();
    gauge(
        &mut out,
        "casemate_vpn_running",
        "1 while the node is admitted and has a map",
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
    head(
        &mut out,
        "casemate_vpn_peer_received_bytes_total",
        "counter",
        "bytes from a peer, without WireGuard's own",
    );
    for peer in &status.peers {
        line(&mut out, "casemate_vpn_peer_received_bytes_total", "peer", &peer.name, peer.rx_bytes);
    }
    head(
        &mut out,
        "casemate_vpn_peer_sent_bytes_total",
        "counter",
        "bytes to a peer, without WireGuard's own",
    );
    for peer in &status.peers {
        line(&mut out, "casemate_vpn_peer_sent_bytes_total", "peer", &peer.name, peer.tx_bytes);
    }
    let tables: [(&str, &str, &BTreeMap<String, u64>); 3] = [
        (
            "casemate_vpn_filter_dropped_packets_total",
            "packets that the filter dropped",
            &status.filter.dropped,
        ),
        ("casemate_vpn_dropped_packets_total", "packets that went nowhere", &status.drops),
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

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn gauge(out: &mut String, name: &str, help: &str, value: u64) {
    head(out, name, "gauge", help);
    let _ = writeln!(out, "{name} {value}");
}

fn line(out: &mut String, name: &str, label: &str, value: &str, number: u64) {
    let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let _ = writeln!(out, "{name}{{{label}=\"{escaped}\"}} {number}");
}
