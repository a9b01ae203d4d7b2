//! `vpn`: the private network.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::document::Warning;
use crate::document::error::Problem;
use crate::document::forms;
use crate::document::node::Node;
use crate::document::shape::SECTION;
use crate::section::{AuthKey, Dns, LoginServer, ServerAppId, Vpn, VpnMode};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Shared address space (RFC 6598), where tailnets live.
const TAILNET_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10);
/// Tailscale's unique local prefix (tailscale `net/tsaddr/tsaddr.go`).
const TAILNET_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0), 48);
/// What the dstack-vpc containers use; it is public address space.
const SEEDS_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(100, 128, 0, 0), 10);

/// Where DERP servers listen unless the document says otherwise (tailscale `derp/derphttp`).
const DERP_PORTS: [u16; 1] = [443];
/// The lock lets nobody ask for names in the clear, on whatever port a coordinator puts a relay.
const DNS_PORT: u16 = 53;

/// `allowed_envs` are dstack's: the names that an encrypted environment may set.
pub(super) fn vpn(node: &Node<'_>, allowed_envs: &[String], dns: &Dns) -> Result<Vpn, Problem> {
    let server_app_id = node.at("server_app_id")?.form("\"self\" or 40 hex digits", |text| {
        if text == "self" { Some(ServerAppId::Own) } else { forms::app_id(text).map(ServerAppId::App) }
    })?;
    let login_server = match node.at("login_server")?.present() {
        None => None,
        Some(login) if server_app_id == ServerAppId::Own => Some(login_server(&login, allowed_envs, dns)?),
        Some(login) => return Err(login.problem("null where server_app_id names a server")),
    };
    let mode = node.at("mode")?.word(&[("tunnel", VpnMode::Tunnel), ("direct", VpnMode::Direct)])?;
    let require_policy = node.at("require_policy")?.boolean()?;
    let derp_ports = derp_ports(&node.at("derp_ports")?)?;
    if mode == VpnMode::Direct {
        only_for_a_tunnel(node, login_server.is_some(), require_policy)?;
        if derp_ports != DERP_PORTS {
            return Err(node.at("derp_ports")?.problem("[443] (mode is direct)"));
        }
    }
    let prefixes = prefixes(&node.at("prefixes")?)?;
    if mode == VpnMode::Tunnel {
        resolvers_are_outside(dns, &prefixes)?;
    }
    let mut derp_pins = BTreeMap::new();
    for (host, pin) in node.at("derp_pins")?.entries()? {
        let host = forms::dns_name(host).ok_or_else(|| pin.problem("a key that is a DNS name"))?;
        derp_pins.insert(host, pin.form("64 hex digits", forms::digest)?);
    }
    Ok(Vpn { mode, server_app_id, login_server, prefixes, derp_pins, derp_ports, require_policy })
}

/// Who is asked where the network's own server is cannot be inside the network: no packet to its addresses leaves by the link.
fn resolvers_are_outside(dns: &Dns, prefixes: &[IpNet]) -> Result<(), Problem> {
    let inside = |address: &SocketAddr| prefixes.iter().any(|net| net.contains(&address.ip().to_canonical()));
    match dns.resolvers.iter().position(|resolver| inside(&resolver.address)) {
        None => Ok(()),
        Some(number) => Err(Problem::invalid(
            &format!("{SECTION}.dns.resolvers[{number}].address"),
            "an address outside casemate.vpn.prefixes",
            "one of the private network's",
        )),
    }
}

fn derp_ports(node: &Node<'_>) -> Result<Vec<u16>, Problem> {
    let mut ports: Vec<u16> = Vec::new();
    for item in node.items()? {
        let port = item.integer()?;
        if port == DNS_PORT {
            return Err(item.problem("another port than 53, which is for names"));
        }
        if ports.contains(&port) {
            return Err(item.problem("a port that is not there twice"));
        }
        ports.push(port);
    }
    Ok(ports)
}

/// What would mean nothing without a VPN is refused, and not ignored.
fn only_for_a_tunnel(node: &Node<'_>, login_server: bool, require_policy: bool) -> Result<(), Problem> {
    if login_server {
        return Err(node.at("login_server")?.problem("null (mode is direct)"));
    }
    let pins = node.at("derp_pins")?;
    if !pins.entries()?.is_empty() {
        return Err(pins.problem("{} (mode is direct)"));
    }
    if !require_policy {
        return Err(node.at("require_policy")?.problem("true (mode is direct)"));
    }
    Ok(())
}

fn login_server(node: &Node<'_>, allowed_envs: &[String], dns: &Dns) -> Result<LoginServer, Problem> {
    let plain_http = node.at("plain_http")?.boolean()?;
    let noise_key = node.at("noise_key")?.present();
    if plain_http && noise_key.is_none() {
        // Otherwise whoever is on the way could be the server.
        return Err(node.at("noise_key")?.problem("mkey: and 64 hex digits (plain_http is true)"));
    }
    let noise_key = noise_key
        .map(|key| key.form("mkey: and 64 hex digits", |text| forms::digest(text.strip_prefix("mkey:")?)));
    let key = node.at("authkey")?;
    let authkey = if key.is_object() {
        let name = key.at("env")?;
        AuthKey::Env(name.form("a name among allowed_envs", |text| {
            forms::variable(text).filter(|name| allowed_envs.contains(name))
        })?)
    } else {
        AuthKey::Literal(key.form("a pre-auth key of visible ASCII characters", |text| {
            (!text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())).then(|| text.to_owned())
        })?)
    };
    let url = node.at("url")?;
    let text = url.form("an https:// URL (or http:// to loopback, or with plain_http)", |text| {
        forms::login_url(text, plain_http)
    })?;
    let is_name = forms::url_host(&text).is_some_and(|host| host.parse::<IpAddr>().is_err());
    if is_name && dns.resolvers.is_empty() {
        // Nobody who is not authenticated is asked where it leads.
        return Err(
            url.problem("an IPv4 address as host, or in casemate.dns.resolvers one to ask for the name")
        );
    }
    Ok(LoginServer { url: text, plain_http, noise_key: noise_key.transpose()?, authkey })
}

fn prefixes(node: &Node<'_>) -> Result<Vec<IpNet>, Problem> {
    let mut found: Vec<IpNet> = Vec::new();
    for item in node.items()? {
        let prefix =
            item.form("a prefix inside 100.64.0.0/10, fd7a:115c:a1e0::/48 or 100.128.0.0/10", |text| {
                forms::prefix(text).filter(|net| match net {
                    IpNet::V4(v4) => TAILNET_V4.contains(v4) || SEEDS_V4.contains(v4),
                    IpNet::V6(v6) => TAILNET_V6.contains(v6),
                })
            })?;
        if found.iter().any(|other| forms::overlap(other, &prefix)) {
            return Err(item.problem("prefixes that do not overlap"));
        }
        found.push(prefix);
    }
    Ok(found)
}

/// What to say about prefixes of public address space, and about a key that is no secret.
pub(super) fn warnings(vpn: &Vpn) -> impl Iterator<Item = Warning> {
    let public = |net: &&IpNet| matches!(net, IpNet::V4(v4) if SEEDS_V4.contains(v4));
    let key = vpn.login_server.as_ref().filter(|login| matches!(login.authkey, AuthKey::Literal(_)));
    vpn.prefixes
        .iter()
        .filter(public)
        .map(|net| Warning::PublicAddressSpace(*net))
        .chain(key.map(|_| Warning::OpenAuthKey))
}
