//! `egress`: what may leave.

use ipnet::IpNet;

use crate::document::error::Problem;
use crate::document::forms;
use crate::document::node::Node;
use crate::section::{Egress, EgressAllow, EgressDestination, EgressMode, Protocol};

pub(super) fn egress(node: &Node<'_>) -> Result<Egress, Problem> {
    let mode = node.at("mode")?.word(&[
        ("internal-only", EgressMode::InternalOnly),
        ("allowlist", EgressMode::Allowlist),
        ("external-allowed", EgressMode::ExternalAllowed),
    ])?;
    let list = node.at("allow")?;
    let mut allow = Vec::new();
    for item in list.items()? {
        let entry = entry(&item)?;
        if allow.contains(&entry) {
            return Err(item.problem("each destination once"));
        }
        allow.push(entry);
    }
    if mode != EgressMode::Allowlist && !allow.is_empty() {
        return Err(list.problem("[] unless mode is \"allowlist\""));
    }
    Ok(Egress { mode, allow, log_denied: node.at("log_denied")?.boolean()? })
}

fn entry(node: &Node<'_>) -> Result<EgressAllow, Problem> {
    let to = match (node.at("host")?.present(), node.at("cidr")?.present()) {
        (Some(host), None) => EgressDestination::Host(host.form("a DNS name", forms::dns_name)?),
        (None, Some(cidr)) => EgressDestination::Cidr(destination(&cidr)?),
        _ => return Err(node.problem("either host or cidr")),
    };
    let port = node.at("port")?;
    if port.integer::<u16>()? == DNS_PORT {
        return Err(port.problem("a port other than 53: the workload's DNS is MagicDNS only"));
    }
    Ok(EgressAllow {
        to,
        port: port.integer()?,
        protocol: node.at("proto")?.word(&[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)])?,
    })
}

/// A prefix that shares no address with the services' links: it would open one service to another.
fn destination(node: &Node<'_>) -> Result<IpNet, Problem> {
    let prefix = node.form("an IP prefix with no bit set behind its length", forms::prefix)?;
    if forms::overlap(&prefix, &IpNet::V4(forms::SERVICE_LINKS)) {
        return Err(node.problem("a prefix clear of 198.18.0.0/15, the links of the services"));
    }
    if forms::UNREACHABLE.iter().any(|never| IpNet::V4(*never).contains(&prefix)) {
        return Err(
            node.problem("a prefix that the egress lock can open (not 0/8, 127/8, 169.254/16, 224/4, 240/4)")
        );
    }
    Ok(prefix)
}

/// RFC 1035 section 4.2. The lock keeps it shut for the workload in every mode (design section 8).
const DNS_PORT: u16 = 53;
