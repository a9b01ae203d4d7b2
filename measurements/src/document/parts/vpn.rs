//! `vpn`: the private network.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::document::Warning;
use crate::document::error::Problem;
use crate::document::forms;
use crate::document::node::Node;
use crate::section::{AuthKey, Dns, LoginServer, Network, Section, ServerAppId, Vpn, VpnMode};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Shared address space (RFC 6598), where tailnets live.
const TAILNET_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10);
/// Tailscale's unique local prefix (tailscale `net/tsaddr/tsaddr.go`).
const TAILNET_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0), 48);
/// What the dstack-vpc containers use; it is public address space.
const SEEDS_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(100, 128, 0, 0), 10);
/// Where names of the network are asked for (tailscale `net/tsaddr/tsaddr.go`, `TailscaleServiceIP`), whatever its prefixes.
const MAGIC_DNS: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 100);

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
    let mut derp_pins = BTreeMap::new();
    for (host, pin) in node.at("derp_pins")?.entries()? {
        let host = forms::dns_name(host).ok_or_else(|| pin.problem("a key that is a DNS name"))?;
        derp_pins.insert(host, pin.form("64 hex digits", forms::digest)?);
    }
    Ok(Vpn { mode, server_app_id, login_server, prefixes, derp_pins, derp_ports, require_policy })
}

/// Whom the machine calls by its link, and who it is there, cannot be inside the network: no packet from or to its addresses passes the
/// link. Nor can whom the VPN process calls be where the egress lock lets it go in no case.
pub(super) fn outside_of_the_network(section: &Node<'_>, checked: &Section) -> Result<(), Problem> {
    let vpn = &checked.vpn;
    let Some(login) = vpn.login_server.as_ref().filter(|_| vpn.mode == VpnMode::Tunnel) else {
        return Ok(());
    };
    let mut called = Vec::new();
    for (item, resolver) in section.at("dns")?.at("resolvers")?.items()?.iter().zip(&checked.dns.resolvers) {
        called.push((item.at("address")?, resolver.address.ip()));
    }
    if let Some(address) = forms::url_host(&login.url).and_then(|host| host.parse().ok()) {
        called.push((section.at("vpn")?.at("login_server")?.at("url")?, address));
    }
    let nowhere = |address: &IpAddr| match address.to_canonical() {
        // A server in the machine itself is not carried out, in words of its own.
        IpAddr::V4(v4) if v4.is_loopback() => false,
        IpAddr::V4(v4) => {
            [forms::SERVICE_LINKS].iter().chain(&forms::UNREACHABLE).any(|net| net.contains(&v4))
        }
        IpAddr::V6(_) => false,
    };
    if let Some((key, _)) = called.iter().find(|(_, address)| nowhere(address)) {
        return Err(key.problem(
            "an address that the egress lock can open (not in 0/8, 169.254/16, 198.18/15, 224/4, 240/4)",
        ));
    }
    for (item, server) in section.at("time")?.at("nts")?.items()?.iter().zip(&checked.time.nts) {
        called.push((item.at("address")?, server.address.ip()));
    }
    if let Network::Static { address, gateway } = &checked.network {
        let network = section.at("network")?;
        called.push((network.at("address")?, address.addr().into()));
        called.push((network.at("gateway")?, (*gateway).into()));
    }
    let private = |address: &IpAddr| {
        let address = address.to_canonical();
        address == IpAddr::V4(MAGIC_DNS) || vpn.prefixes.iter().any(|net| net.contains(&address))
    };
    match called.iter().find(|(_, address)| private(address)) {
        None => Ok(()),
        Some((key, _)) => {
            Err(key.problem("an address outside casemate.vpn.prefixes, and not 100.100.100.100"))
        }
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
    let text = url
        .form("https://HOST or https://HOST:PORT (or http://, to loopback or with plain_http)", |text| {
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
