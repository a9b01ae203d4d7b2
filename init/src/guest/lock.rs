//! From the measured document to the egress lock.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use casemate_egress::{
    Allow, Backend, Ifname, Lock, LockError, LoginServer, Mode, Policy, Proto, Service, Tunnel, Uids,
};
use casemate_measure::MeasuredConfig;
use casemate_measure::section::{EgressDestination, EgressMode, Network, Protocol, Section, VpnMode};
use casemate_measure::status::Reason;
use casemate_vpn::parent::network::NAMES_V4;

use super::vpn;
use crate::boot::Failure;
use crate::layout::{
    AGENT_UID, DHCP_MARK, DHCP_UID, MESH_UID, TIME_UID, VPC_UID, VPN_INTERFACE, VPN_PORT, VPN_UID,
};
use crate::roles::vpn::login_port;
use crate::status;

/// The physical link's name: with `net.ifnames=0` the kernel counts, and there is one.
pub(super) const LINK: &str = "eth0";

/// The word of the document.
pub(super) fn mode_word(config: &MeasuredConfig) -> &'static str {
    match config.section().egress.mode {
        EgressMode::InternalOnly => "internal-only",
        EgressMode::Allowlist => "allowlist",
        EgressMode::ExternalAllowed => "external-allowed",
    }
}

/// Sets the lock, reads it back and compares.
pub(super) fn install(config: &MeasuredConfig) -> Result<Lock, Failure> {
    let mut lock = Lock::install(&casemate_egress::ruleset(&policy(config)?)).map_err(|e| failure(&e))?;
    lock.verify().map_err(|e| failure(&e))?;
    Ok(lock)
}

/// Puts the link behind the lock, before it is up.
pub(super) fn attach(lock: &mut Lock, config: &MeasuredConfig, link: &str) -> Result<(), Failure> {
    if link != LINK {
        return Err(Failure::new(
            Reason::LockFailed,
            format!("physical link: expected {LINK}, found {link}"),
        ));
    }
    lock.attach_link(&ifname()?, dhcp_mark(config)).map_err(|e| failure(&e))?;
    lock.verify().map_err(|e| failure(&e))
}

/// From now on the link may send from this address.
pub(super) fn set_address(lock: &mut Lock, address: Ipv4Addr, gateway: Ipv4Addr) -> Result<(), Failure> {
    lock.set_own_addresses(&ifname()?, &[IpAddr::V4(address)], Some(IpAddr::V4(gateway)))
        .map_err(|e| failure(&e))
}

/// From now on the link may send from no address.
pub(super) fn clear_address(lock: &mut Lock) -> Result<(), Failure> {
    lock.set_own_addresses(&ifname()?, &[], None).map_err(|e| failure(&e))
}

/// Reads everything back and compares.
pub(super) fn verify(lock: &mut Lock) -> Result<(), Failure> {
    lock.verify().map_err(|e| failure(&e))
}

/// All counters.
pub(super) fn counters(lock: &mut Lock) -> Result<Vec<status::Counter>, Failure> {
    let counters = lock.counters().map_err(|e| failure(&e))?;
    let one =
        |c: casemate_egress::Counter| status::Counter { name: c.name, packets: c.packets, bytes: c.bytes };
    Ok(counters.into_iter().map(one).collect())
}

fn policy(config: &MeasuredConfig) -> Result<Policy, Failure> {
    let refused = |error: &dyn std::fmt::Display| Failure::new(Reason::LockFailed, error.to_string());
    let section = config.section();
    let mut services = Vec::new();
    for (number, service) in (1_u8..).zip(&section.services) {
        services.push(Service {
            number,
            name: service.name.as_str().parse().map_err(|e: casemate_egress::NameError| refused(&e))?,
        });
    }
    let mut backends = Vec::new();
    for backend in &section.mesh.backends {
        let number = backend.to.service.checked_add(1).and_then(|n| u8::try_from(n).ok());
        let service = number.ok_or_else(|| refused(&"a backend of a service beyond 255"))?;
        backends.push(Backend { service, port: backend.to.port });
    }
    Ok(Policy {
        mode: mode(config)?,
        link: ifname()?,
        services,
        inbound: section.mesh.backends.iter().map(|backend| backend.listen).collect(),
        mesh_targets: mesh_targets(section),
        time_servers: section.time.nts.iter().map(|server| server.address).collect(),
        backends,
        tunnel: tunnel(section)?,
        uids: Uids {
            agent: AGENT_UID,
            vpn: VPN_UID,
            mesh: MESH_UID,
            vpc: VPC_UID,
            dhcp: DHCP_UID,
            time: TIME_UID,
        },
        dhcp_mark: dhcp_mark(config),
    })
}

/// The private network, if there is one.
fn tunnel(section: &Section) -> Result<Option<Tunnel>, Failure> {
    let (VpnMode::Tunnel, Some(login)) = (section.vpn.mode, &section.vpn.login_server) else {
        return Ok(None);
    };
    let refused = |text: &str| Failure::new(Reason::LockFailed, text.to_owned());
    let server = login_server(&login.url).ok_or_else(|| {
        refused("casemate.vpn.login_server.url: expected an IPv4 address or a name as host")
    })?;
    Ok(Some(Tunnel {
        interface: VPN_INTERFACE
            .parse()
            .map_err(|error: casemate_egress::NameError| refused(&error.to_string()))?,
        prefixes: vpn::ipv4_prefixes(section).collect(),
        names: NAMES_V4,
        port: VPN_PORT,
        login_server: server,
        resolvers: section.dns.resolvers.iter().map(|resolver| resolver.address).collect(),
        relay_ports: section.vpn.derp_ports.clone(),
    }))
}

/// Where the login server is: the document's reader took no IPv6 address.
pub(super) fn login_server(url: &str) -> Option<LoginServer> {
    let (_, rest) = url.split_once("://")?;
    let host = rest.split(['/', ':']).next()?;
    let port = login_port(url)?;
    if host.is_empty() || host.starts_with('[') {
        return None;
    }
    Some(match host.parse::<Ipv4Addr>() {
        Ok(address) => LoginServer::At(SocketAddr::from((address, port))),
        Err(_) => LoginServer::Named { port },
    })
}

/// The measured targets, and where the document says that collateral comes from.
fn mesh_targets(section: &Section) -> Vec<SocketAddr> {
    let pccs = section.collateral.pccs.as_ref().map(|pccs| pccs.address);
    section.mesh.targets.values().copied().chain(pccs).collect()
}

fn ifname() -> Result<Ifname, Failure> {
    LINK.parse()
        .map_err(|error: casemate_egress::NameError| Failure::new(Reason::LockFailed, error.to_string()))
}

/// A static address leaves DHCP shut.
fn dhcp_mark(config: &MeasuredConfig) -> Option<u32> {
    matches!(config.section().network, Network::Dhcp).then_some(DHCP_MARK)
}

fn mode(config: &MeasuredConfig) -> Result<Mode, Failure> {
    let egress = &config.section().egress;
    let allow = egress.allow.iter().map(|allow| match &allow.to {
        EgressDestination::Cidr(cidr) => Ok(Allow {
            cidr: *cidr,
            port: allow.port,
            proto: match allow.protocol {
                Protocol::Tcp => Proto::Tcp,
                Protocol::Udp => Proto::Udp,
            },
        }),
        EgressDestination::Host(host) => Err(Failure::new(
            Reason::LockFailed,
            format!("not implemented in this version: casemate.egress.allow host {host:?}"),
        )),
    });
    Ok(match egress.mode {
        EgressMode::InternalOnly => Mode::InternalOnly,
        EgressMode::Allowlist => Mode::Allowlist(allow.collect::<Result<_, _>>()?),
        EgressMode::ExternalAllowed => Mode::ExternalAllowed,
    })
}

fn failure(error: &LockError) -> Failure {
    Failure::new(Reason::LockFailed, error.to_string()).numbered(u64::try_from(error.errno()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use casemate_measure::Platform;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_tunnel_leads_to_the_documents_server_and_a_document_without_one_has_none() {
        let read =
            |document: &[u8]| MeasuredConfig::parse("document", document, Platform::Appliance).unwrap();
        let direct = read(include_bytes!("../../../configs/node.app-compose.json"));
        assert_eq!(tunnel(direct.section()).unwrap(), None);
        let config = read(include_bytes!("../../../configs/tunnel.app-compose.json"));
        let found = tunnel(config.section()).unwrap().unwrap();
        assert_eq!(found.login_server, LoginServer::At("10.0.2.2:8080".parse().unwrap()));
        assert_eq!((found.relay_ports, found.resolvers), (vec![443], vec![]));
        assert_eq!(found.prefixes, ["100.64.0.0/10".parse().unwrap()]);
        assert!(found.port < 32768, "masquerading takes the others");
        assert!(policy(&config).unwrap().tunnel.is_some());
    }

    #[test]
    fn a_named_server_is_at_its_urls_port_and_resolvers_are_reached() {
        let mut json: Value =
            serde_json::from_slice(include_bytes!("../../../configs/tunnel.app-compose.json")).unwrap();
        json["casemate"]["vpn"]["login_server"]["url"] = json!("https://headscale.example.com:8443");
        json["casemate"]["vpn"]["derp_ports"] = json!([443, 3340]);
        json["casemate"]["dns"] =
            json!({ "resolvers": [{ "kind": "dot", "address": "9.9.9.9:853", "name": "dns.quad9.net" }] });
        let bytes = serde_json::to_vec(&json).unwrap();
        let config = MeasuredConfig::parse("document", &bytes, Platform::Appliance).unwrap();
        let found = tunnel(config.section()).unwrap().unwrap();
        assert_eq!(found.login_server, LoginServer::Named { port: 8443 });
        assert_eq!(found.resolvers, ["9.9.9.9:853".parse().unwrap()]);
        assert_eq!(found.relay_ports, [443, 3340]);
        for (url, server) in [
            ("https://headscale.example.com", Some(LoginServer::Named { port: 443 })),
            ("https://192.0.2.1", Some(LoginServer::At("192.0.2.1:443".parse().unwrap()))),
            ("https://[2001:db8::1]:8443", None),
        ] {
            assert_eq!(login_server(url), server, "{url}");
        }
    }

    #[test]
    fn the_mesh_reaches_the_measured_targets_and_the_pccs() {
        let document = include_bytes!("../../../configs/node.app-compose.json");
        let targets = |collateral: Value| {
            let mut json: Value = serde_json::from_slice(document).unwrap();
            json["casemate"]["collateral"] = collateral;
            let bytes = serde_json::to_vec(&json).unwrap();
            let measured =
                MeasuredConfig::parse("node.app-compose.json", &bytes, Platform::Appliance).unwrap();
            mesh_targets(measured.section()).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(targets(json!({})), ["10.0.2.2:18443"]);
        let pccs = json!({ "pccs": { "url": "https://pccs.example:8081", "address": "192.0.2.8:8081" } });
        assert_eq!(targets(pccs), ["10.0.2.2:18443", "192.0.2.8:8081"]);
    }
}
