//! The private network: its TUN, the process behind it, and what that asks for.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;

use casemate_egress::LockError;
use casemate_measure::MeasuredConfig;
use casemate_measure::section::{
    AuthKey as Key, EgressAllow, EgressDestination, EgressMode, LoginServer as Login, Section, VpnMode,
};
use casemate_measure::status::Reason;
use casemate_vpn::key::{Node, Public};
use casemate_vpn::parent::message::{Answer, Message, Report};
use casemate_vpn::parent::network::{self, NAMES_V4, Refusal};
use casemate_vpn::parent::{AuthKey, Config, Descriptors, Dns, Keys, LoginServer, Resolver, slots};
use ipnet::{IpNet, Ipv4Net};

use super::{Guest, Health, OWN_LIMITS, Recipe, lock};
use crate::boot::{Failure, Measured};
use crate::layout::{AGENT_SOCKET, VPN_INTERFACE, VPN_MTU, VPN_PORT, VPN_UID};
use crate::net::tailnet::{self, Tailnet};
use crate::roles::{self, VpnHandover};
use crate::supervise::{PACE, Restarts};
use crate::sys::{self, Namespaces};
use crate::{log, status};

/// The process's name.
pub(super) const NAME: &str = "vpn";

/// One for each processor, up to so many.
const MOST_QUEUES: usize = 4;

/// What PID 1 keeps of the private network.
#[derive(Debug)]
pub(super) struct GuestVpn {
    tailnet: Tailnet,
    /// The document's, as far as the TUN has them: what an address may be of.
    prefixes: Vec<IpNet>,
    tun: Vec<OwnedFd>,
}

impl GuestVpn {
    /// Addresses that are the network's alone: the lock lets none of them pass the link.
    pub(super) fn private(&self) -> impl Iterator<Item = IpNet> {
        self.prefixes.iter().copied().chain([IpAddr::V4(NAMES_V4).into()])
    }
}

/// The network's IPv4 prefixes: in this version the guest has no IPv6 at all.
pub(super) fn ipv4_prefixes(section: &Section) -> impl Iterator<Item = Ipv4Net> {
    section.vpn.prefixes.iter().filter_map(|prefix| match prefix {
        IpNet::V4(net) => Some(*net),
        IpNet::V6(_) => None,
    })
}

/// What the status document says before the process says anything.
pub(super) fn status(section: &Section) -> status::Vpn {
    match section.vpn.mode {
        VpnMode::Direct => status::Vpn { mode: "direct", ..status::Vpn::default() },
        VpnMode::Tunnel => status::Vpn {
            mode: "tunnel",
            state: Some("starting"),
            expected_tag: Some(section.egress.mode.tag()),
            ..status::Vpn::default()
        },
    }
}

impl Guest {
    /// Makes the TUN, if the document wants a tunnel: behind the lock, which knows its name.
    pub(super) fn make_tun(&mut self, config: &MeasuredConfig) -> Result<(), Failure> {
        let section = config.section();
        if section.vpn.mode == VpnMode::Direct {
            return Ok(());
        }
        let queues = std::thread::available_parallelism().map_or(1, |count| count.get().min(MOST_QUEUES));
        let tun = sys::open_tun(VPN_INTERFACE, queues)
            .map_err(|error| Failure::errno(Reason::VpnFailed, VPN_INTERFACE, &error))?;
        let failed = |error: crate::net::NetError| Failure::new(Reason::VpnFailed, error.to_string());
        tailnet::harden(VPN_INTERFACE).map_err(failed)?;
        let prefixes: Vec<IpNet> = ipv4_prefixes(section).map(IpNet::V4).collect();
        let tailnet = Tailnet::bring_up(VPN_INTERFACE, &prefixes, VPN_MTU, true).map_err(failed)?;
        self.vpn = Some(GuestVpn { tailnet, prefixes, tun });
        Ok(())
    }

    /// Starts the process, if there is a TUN, and waits until it is up. Whether it is admitted is another matter: its server may be
    /// away, and the status says so.
    pub(super) fn start_vpn(&mut self, measured: &Measured) -> Result<(), Failure> {
        let (Some(vpn), Some(login)) = (&self.vpn, &measured.config.section().vpn.login_server) else {
            return Ok(());
        };
        let failed = |error: &dyn std::fmt::Display| Failure::new(Reason::VpnFailed, error.to_string());
        let handover = VpnHandover {
            guest: true,
            relay_ports: measured.config.section().vpn.derp_ports.clone(),
            node: told(measured, login, vpn.tun.len()).map_err(|e| failed(&e))?,
        };
        // What survives a restart of the process: in memory, and nowhere else.
        let mut extra = vec![slots::create().map_err(|e| failed(&e))?];
        for queue in &vpn.tun {
            extra.push(queue.try_clone().map_err(|e| failed(&e))?);
        }
        let recipe = Recipe {
            name: NAME.into(),
            role: roles::VPN,
            handover: serde_json::to_vec(&handover).map_err(|e| failed(&e))?,
            extra,
            uid: Some(VPN_UID),
            namespaces: Namespaces::Shared,
            leaf: Self::leaf(NAME, OWN_LIMITS, Reason::VpnFailed)?,
            restarts: Restarts::for_ever(PACE),
            health: Health::Heartbeat,
        };
        self.start_own(recipe, Reason::VpnFailed)
    }

    /// Takes a message of the process: hostile input.
    pub(super) fn take_vpn(&mut self, bytes: &[u8]) {
        match Message::decode(bytes) {
            Ok(Message::SetNetwork(request)) => {
                let outcome = self.set_addresses(&request.addresses);
                if let Err(refusal) = outcome {
                    log::print("casemate", &format!("vpn: its addresses are refused: {refusal}"));
                }
                let answer = Answer { sequence: request.sequence, outcome };
                if let Some(processes) = &self.processes {
                    processes.answer(NAME, &answer.encode());
                }
            }
            Ok(Message::SetServer(request)) => {
                let outcome = self.open_server(&request.addresses);
                if let Err(refusal) = outcome {
                    log::print("casemate", &format!("vpn: its server's addresses are refused: {refusal}"));
                }
                let answer = Answer { sequence: request.sequence, outcome };
                if let Some(processes) = &self.processes {
                    processes.answer(NAME, &answer.encode());
                }
            }
            Ok(Message::Report(report)) => self.document.vpn.take(&report),
            // The slots are PID 1's already.
            Ok(Message::Kept) => {}
            Err(error) => log::print("casemate", &format!("vpn: {error}")),
        }
    }

    /// Opens the lock to where the login server's name leads, on the document's port and for the process alone. It says so itself, and
    /// may be wrong or taken over: it reaches peers by UDP and relays by TCP wherever its coordinator puts them, so this gives it one
    /// more port, of places outside.
    fn open_server(&mut self, addresses: &[Ipv4Addr]) -> Result<(), Refusal> {
        let vpn = self.vpn.as_ref().ok_or(Refusal::Malformed)?;
        if vpn.private().any(|net| addresses.iter().any(|address| net.contains(&IpAddr::V4(*address)))) {
            return Err(Refusal::Nowhere);
        }
        let Some(lock) = &mut self.lock else { return Ok(()) };
        lock.set_login_server(addresses).map_err(|error| {
            log::print("casemate", &format!("vpn: {error}"));
            match error {
                LockError::NoNamedServer => Refusal::Fixed,
                LockError::ServerAddress(_) | LockError::TooManyServers(_) => Refusal::Nowhere,
                _ => Refusal::Kernel,
            }
        })
    }

    fn set_addresses(&mut self, addresses: &[IpNet]) -> Result<(), Refusal> {
        let vpn = self.vpn.as_ref().ok_or(Refusal::Malformed)?;
        network::check(&vpn.prefixes, addresses)?;
        vpn.tailnet.set(addresses).map_err(|error| {
            log::print("casemate", &format!("vpn: {error}"));
            Refusal::Kernel
        })?;
        self.document.vpn.addresses = addresses.iter().map(|net| net.addr().to_string()).collect();
        Ok(())
    }
}

/// What the process is told.
fn told(measured: &Measured, login: &Login, queues: usize) -> Result<Config, &'static str> {
    let section = measured.config.section();
    let Key::Literal(authkey) = &login.authkey else {
        return Err("not implemented in this version: casemate.vpn.login_server.authkey.env");
    };
    Ok(Config {
        login_server: LoginServer {
            url: login.url.clone(),
            noise_key: login.noise_key.map(Public::new),
            authkey: Some(AuthKey::new(authkey.clone())),
            plain_http: login.plain_http,
            locked: lock::login_server(&login.url).is_some_and(|server| server.is_named()),
        },
        hostname: section.node.name.to_string(),
        prefixes: section.vpn.prefixes.clone(),
        derp_pins: section.vpn.derp_pins.iter().map(|(host, pin)| (host.clone(), hex::encode(pin))).collect(),
        require_policy: section.vpn.require_policy,
        expected_tag: Some(section.egress.mode.tag().to_owned()),
        interface: VPN_INTERFACE.to_owned(),
        port: VPN_PORT,
        mtu: VPN_MTU,
        ipv6: false,
        dns: Dns {
            listen: true,
            // Services have no resolver: their names of elsewhere are refused in every mode.
            resolvers: Vec::new(),
            internal_only: section.egress.mode != EgressMode::ExternalAllowed,
            allowlist: allowed_names(&section.egress.allow),
            authenticated: section
                .dns
                .resolvers
                .iter()
                .map(|resolver| Resolver { address: resolver.address, name: resolver.name.clone() })
                .collect(),
        },
        roots: None,
        keys: Keys::Agent { socket: AGENT_SOCKET.into(), instance_id: measured.instance_id.to_string() },
        debug_use_derp_http: false,
        descriptors: Descriptors { queues, ..Descriptors::default() },
    })
}

/// The names that services may reach outside: the coordinator must answer for none of them.
fn allowed_names(allow: &[EgressAllow]) -> Vec<String> {
    let name = |entry: &EgressAllow| match &entry.to {
        EgressDestination::Host(name) => Some(name.clone()),
        _ => None,
    };
    allow.iter().filter_map(name).collect()
}

impl status::Vpn {
    /// What the process says. Its texts are plain ones.
    fn take(&mut self, report: &Report) {
        self.state = Some(report.standing.word());
        self.connected = report.connected;
        self.node_key = (report.key != [0; 32]).then(|| Public::<Node>::new(report.key).to_string());
        self.name = (!report.name.is_empty()).then(|| report.name.clone());
        self.peers = report.peers;
        self.direct = report.direct;
        self.derp_home = (report.home != 0).then_some(report.home);
        self.tags.clone_from(&report.tags);
        // Before the first map nobody has said anything about tags.
        self.tag_missing = self.name.is_some()
            && self.expected_tag.is_some_and(|expected| !report.tags.iter().any(|tag| tag == expected));
    }
}

#[cfg(test)]
mod tests {
    use casemate_measure::section::Protocol;
    use casemate_vpn::parent::message::Standing;

    use super::*;

    #[test]
    fn names_that_services_may_reach_are_none_of_the_coordinators() {
        let allow = |to| EgressAllow { to, port: 443, protocol: Protocol::Tcp };
        let prefix = EgressDestination::Cidr("203.0.113.0/24".parse().unwrap());
        let list = [allow(EgressDestination::Host("api.example.com".to_owned())), allow(prefix)];
        assert_eq!(allowed_names(&list), ["api.example.com"]);
    }

    #[test]
    fn a_tag_that_the_map_does_not_show_is_missed_once_there_is_a_map() {
        let mut vpn =
            status::Vpn { mode: "tunnel", expected_tag: Some("tag:internal-only"), ..status::Vpn::default() };
        let mut report = Report { standing: Standing::Joining, ..Report::default() };
        vpn.take(&report);
        assert_eq!((vpn.state, vpn.tag_missing, vpn.node_key.as_ref()), (Some("joining"), false, None));
        report = Report {
            standing: Standing::Running,
            connected: true,
            key: [1; 32],
            name: "tunnel-1".to_owned(),
            tags: vec!["tag:other".to_owned()],
            ..report
        };
        vpn.take(&report);
        assert!(vpn.tag_missing && vpn.node_key.as_ref().unwrap().starts_with("nodekey:01"));
        report.tags.push("tag:internal-only".to_owned());
        vpn.take(&report);
        assert!(!vpn.tag_missing);
    }
}
