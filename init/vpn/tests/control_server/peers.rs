//! Many peers, as real ones are.

use serde_json::{Value, json};

/// A peer as Headscale writes a real tailscaled: some 1.2 kB.
pub(crate) fn peer(id: u64, port: u64) -> Value {
    let (high, low) = (id / 256, id % 256);
    json!({
        "ID": id, "StableID": id.to_string(), "Name": format!("node-{id}.t.internal."), "User": 2_147_455_555u64,
        "Key": format!("nodekey:{id:064x}"), "Machine": format!("mkey:{id:064x}"), "DiscoKey": format!("discokey:{id:064x}"),
        "Addresses": [format!("100.64.{high}.{low}/32"), format!("fd7a:115c:a1e0::{id:x}/128")],
        "AllowedIPs": [format!("100.64.{high}.{low}/32"), format!("fd7a:115c:a1e0::{id:x}/128")],
        "Endpoints": [format!("192.0.2.1:{port}"), format!("198.51.100.7:{port}")], "HomeDERP": 999,
        "Hostinfo": { "IPNVersion": "1.102.5", "BackendLogID": "0".repeat(64), "OS": "linux", "OSVersion": "6.18.44", "Distro": "debian",
            "Hostname": format!("node-{id}"), "Machine": "x86_64", "GoArch": "amd64", "GoVersion": "go1.26.8",
            "Services": [{ "Proto": "peerapi4", "Port": 58436 }, { "Proto": "peerapi6", "Port": 58436 }],
            "NetInfo": { "WorkingIPv6": false, "OSHasIPv6": true, "WorkingUDP": true, "PreferredDERP": 999, "DERPLatency": { "999-v4": 0.0006 } } },
        "Created": "2026-11-22T00:17:08.703971562Z", "Cap": 130, "Tags": ["tag:internal-only"], "Online": true, "MachineAuthorized": true
    })
}

/// So many of them, from number 2.
pub(crate) fn peers(count: u64) -> Vec<Value> {
    (2..count + 2).map(|id| peer(id, 41641)).collect()
}
