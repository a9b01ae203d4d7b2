//! `network`, `dns`, `time`, `collateral`, `gateway`: the way to the outside.

use crate::document::error::Problem;
use crate::document::forms;
use crate::document::node::Node;
use crate::section::{Collateral, Dns, Gateway, Network, NtsServer, Pccs, Resolver, ResolverKind, Time};
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;

pub(super) const SOCKET: &str = "IP:PORT of one machine, outside 198.18.0.0/15";
const DNS_NAME: &str = "a DNS name";
const HTTPS_URL: &str = "an https:// URL without user, query or fragment";

pub(super) fn network(node: &Node<'_>) -> Result<Network, Problem> {
    let (address, gateway) = (node.at("address")?, node.at("gateway")?);
    if node.at("mode")?.text()? == "dhcp" {
        return match address.present().or_else(|| gateway.present()) {
            None => Ok(Network::Dhcp),
            Some(set) => Err(set.problem("nothing with mode \"dhcp\"")),
        };
    }
    let net: Ipv4Net = address.parsed("IPv4 ADDRESS/PREFIX with mode \"static\"")?;
    if !(net.prefix_len() <= 31 && is_host(net.addr(), &net)) {
        return Err(
            address.problem("the address of a host, in a prefix of at most 31 bits, outside 198.18.0.0/15")
        );
    }
    let to: Ipv4Addr = gateway.parsed("an IPv4 address with mode \"static\"")?;
    if !(net.contains(&to) && is_host(to, &net) && to != net.addr()) {
        return Err(gateway.problem(format!("another host's address inside {}", net.trunc())));
    }
    Ok(Network::Static { address: net, gateway: to })
}

/// Whether an address can be a host's. A /31 has no network and no broadcast address (RFC 3021).
fn is_host(ip: Ipv4Addr, net: &Ipv4Net) -> bool {
    let special = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_broadcast();
    let edge = net.prefix_len() < 31 && (ip == net.network() || ip == net.broadcast());
    !special && !edge && !forms::SERVICE_LINKS.contains(&ip)
}

pub(super) fn dns(node: &Node<'_>) -> Result<Dns, Problem> {
    let resolvers = node.at("resolvers")?.each(|item| {
        Ok(Resolver {
            kind: item.at("kind")?.word(&[("dot", ResolverKind::Dot), ("doh", ResolverKind::Doh)])?,
            address: item.at("address")?.form(SOCKET, forms::remote_socket)?,
            name: item.at("name")?.form(DNS_NAME, forms::dns_name)?,
        })
    })?;
    Ok(Dns { resolvers })
}

pub(super) fn time(node: &Node<'_>) -> Result<Time, Problem> {
    let mut nts: Vec<NtsServer> = Vec::new();
    for item in node.at("nts")?.items()? {
        let address = item.at("address")?;
        let server = NtsServer {
            address: address.form(SOCKET, forms::remote_socket)?,
            name: item.at("name")?.form(DNS_NAME, forms::dns_name)?,
        };
        // Each has one vote, and NTP is on the same port of all.
        let ip = server.address.ip().to_canonical();
        if nts.iter().any(|other| other.address.ip().to_canonical() == ip) {
            return Err(address.problem("an IP address that no other server has"));
        }
        nts.push(server);
    }
    Ok(Time { nts })
}

pub(super) fn collateral(node: &Node<'_>) -> Result<Collateral, Problem> {
    Ok(Collateral {
        pccs: node.at("pccs")?.present().map(|pccs| self::pccs(&pccs)).transpose()?,
        max_age_days: node.at("max_age_days")?.integer()?,
    })
}

fn pccs(node: &Node<'_>) -> Result<Pccs, Problem> {
    let (url, address) = (node.at("url")?, node.at("address")?);
    let port = url.form(HTTPS_URL, forms::https_port)?;
    let to = address.form(SOCKET, forms::remote_socket)?;
    if to.port() != port {
        return Err(address.problem(format!("the URL's port, {port}")));
    }
    let url = url.form(HTTPS_URL, forms::https_url)?;
    Ok(Pccs { url: url.trim_end_matches('/').to_owned(), address: to })
}

pub(super) fn gateway(node: &Node<'_>) -> Result<Gateway, Problem> {
    Ok(Gateway {
        domain: node.at("domain")?.form(DNS_NAME, forms::dns_name)?,
        addresses: node.at("addresses")?.each(|item| item.form(SOCKET, forms::remote_socket))?,
    })
}
