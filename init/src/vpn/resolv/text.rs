//! What stands in such a file (resolv.conf(5)).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use casemate_vpn::parent::message::is_domain;
use casemate_vpn::parent::network::{NAMES_V4, NAMES_V6};

/// DNS (RFC 1035 section 4.2).
const PORT: u16 = 53;
/// Resolvers that glibc asks (resolv.conf(5), `MAXNS`).
const MAX_RESOLVERS: usize = 3;
/// Docker's own resolver (moby `libnetwork/resolver.go`), the one on loopback that does not read the file that it stands in.
const DOCKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// Our file: the node answers names, and those of its network can be said shortly.
pub(super) fn ours(before: &Path, search: Option<&str>) -> String {
    let search = search.map(|domain| format!("search {domain}\n")).unwrap_or_default();
    format!(
        "# Of casemate-init vpn, while it runs. What was here before: {}\n{search}nameserver {NAMES_V4}\n",
        before.display()
    )
}

/// Whether we wrote this, and nobody changed it since.
pub(super) fn is_ours(before: &Path, text: &str) -> bool {
    let search =
        text.lines().find_map(|line| line.strip_prefix("search ")).filter(|domain| is_domain(domain));
    text == ours(before, search)
}

/// Whom a file of somebody else names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Who could be asked in our place.
    pub(super) resolvers: Vec<SocketAddr>,
    /// Somebody on this machine who may read the file to know whom to ask, and then would ask us.
    pub(super) on_loopback: Option<IpAddr>,
    /// The addresses where we answer are in it already.
    pub(super) is_loop: bool,
}

/// Reads the `nameserver` lines; what else stands there is nothing to us.
pub(super) fn read(text: &str) -> Found {
    let mut found = Found { resolvers: Vec::new(), on_loopback: None, is_loop: false };
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some("nameserver"), Some(address)) = (words.next(), words.next()) else { continue };
        // With a zone it is a neighbour on one link, which we cannot say.
        let Ok(address) = address.parse::<IpAddr>() else { continue };
        let address = address.to_canonical();
        if address == IpAddr::V4(NAMES_V4) || address == IpAddr::V6(NAMES_V6) {
            found.is_loop = true;
        } else if (address.is_loopback() && address != IpAddr::V4(DOCKER)) || address.is_unspecified() {
            found.on_loopback.get_or_insert(address);
        } else if found.resolvers.len() < MAX_RESOLVERS {
            found.resolvers.push(SocketAddr::new(address, PORT));
        }
    }
    found
}
