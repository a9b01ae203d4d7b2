//! Network settings under /proc/sys, each read back after it was written.
//!
//! Inside a thread that entered another network namespace these files are that namespace's: the kernel resolves
//! /proc/sys/net by the calling thread (fs/proc/proc_sysctl.c, `net/sysctl_net.c: net_ctl_header_lookup`).

use std::fs;
use std::path::Path;

use super::NetError;

/// The IPv6 settings' folder; absent in a kernel without IPv6.
const IPV6: &str = "/proc/sys/net/ipv6";

/// Writes `/proc/sys/net/<name>` and reads it back.
pub(super) fn set(name: &str, value: &'static str) -> Result<(), NetError> {
    let path = path(name);
    fs::write(&path, value).map_err(NetError::system("write", &path))?;
    expect(name, value)
}

/// Reads `/proc/sys/net/<name>` and compares.
pub(super) fn expect(name: &str, expected: &'static str) -> Result<(), NetError> {
    let path = path(name);
    let found = fs::read_to_string(&path).map_err(NetError::system("read", &path))?;
    let found = found.trim();
    if found == expected {
        return Ok(());
    }
    Err(NetError::Sysctl { path, expected, found: found.to_owned() })
}

/// What every interface gets, and `all` and `default`: nobody on the wire may redirect us, choose our path, or hear of
/// addresses that belong to another interface.
pub(super) fn harden_ipv4(conf: &str) -> Result<(), NetError> {
    for (name, value) in IPV4_FOR_EVERY_LINK {
        set(&format!("ipv4/conf/{conf}/{name}"), value)?;
    }
    Ok(())
}

/// No IPv6 in this version: an interface without it sends neither router solicitations nor neighbour discovery.
pub(super) fn disable_ipv6(conf: &str) -> Result<(), NetError> {
    if !Path::new(IPV6).exists() {
        return Ok(());
    }
    for (name, value) in IPV6_FOR_EVERY_LINK {
        set(&format!("ipv6/conf/{conf}/{name}"), value)?;
    }
    Ok(())
}

fn path(name: &str) -> String {
    format!("/proc/sys/net/{name}")
}

/// Meanings: Documentation/networking/ip-sysctl.rst of the kernel.
const IPV4_FOR_EVERY_LINK: [(&str, &str); 8] = [
    ("accept_redirects", "0"),
    ("secure_redirects", "0"),
    ("send_redirects", "0"),
    ("accept_source_route", "0"),
    // 127.0.0.0/8 stays on loopback.
    ("route_localnet", "0"),
    // Packets from outside that claim one of our own addresses are dropped.
    ("accept_local", "0"),
    // Only addresses of the asked interface are answered for: the host must not find 198.18.0.0/15 through our NIC.
    ("arp_ignore", "1"),
    // And only such an address is shown in our own questions.
    ("arp_announce", "2"),
];

/// `disable_ipv6` last: the others take effect if anybody ever turns IPv6 on again.
const IPV6_FOR_EVERY_LINK: [(&str, &str); 5] = [
    ("accept_ra", "0"),
    ("autoconf", "0"),
    ("accept_redirects", "0"),
    ("accept_source_route", "0"),
    ("disable_ipv6", "1"),
];
