//! Golden texts, and properties that every rule set has.

use std::path::Path;

use proptest::prelude::*;

use crate::policy::{Allow, Backend, LoginServer, Mode, Policy, Proto, Service, Tunnel, Uids};
use crate::ruleset::{Rule, Ruleset};
use crate::term::Term;
use crate::wire::{Policy as ChainPolicy, Verdict};
use crate::{guard_ruleset, link_ruleset, ruleset};

pub(crate) fn policy(mode: Mode) -> Policy {
    let service = |number, name: &str| Service { number, name: name.parse().unwrap() };
    Policy {
        mode,
        link: "eth0".parse().unwrap(),
        services: vec![service(1, "web"), service(2, "db")],
        inbound: vec![443, 27017],
        mesh_targets: vec!["192.0.2.7:443".parse().unwrap(), "[2001:db8::7]:443".parse().unwrap()],
        time_servers: vec!["192.0.2.123:4460".parse().unwrap()],
        backends: vec![Backend { service: 1, port: 8000 }, Backend { service: 2, port: 27017 }],
        tunnel: None,
        uids: Uids { agent: 101, vpn: 102, mesh: 103, vpc: 104, dhcp: 105, time: 107 },
        dhcp_mark: Some(0x0da1),
    }
}

pub(crate) fn tunnel() -> Tunnel {
    Tunnel {
        interface: "tailnet0".parse().unwrap(),
        prefixes: vec!["100.64.0.0/10".parse().unwrap()],
        names: "100.100.100.100".parse().unwrap(),
        port: 41641,
        login_server: LoginServer::At("192.0.2.80:8080".parse().unwrap()),
        resolvers: Vec::new(),
        relay_ports: vec![443],
    }
}

fn allow(cidr: &str, port: u16, proto: Proto) -> Allow {
    Allow { cidr: cidr.parse().unwrap(), port, proto }
}

/// `UPDATE_GOLDEN=1 cargo test -p casemate-egress` writes them anew; read the difference before you commit it.
fn golden(name: &str, rules: &Ruleset) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/rules/golden").join(name);
    let text = rules.to_string();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert!(text == expected, "{name} differs; ours:\n{text}");
}

#[test]
fn the_three_modes_and_the_link() {
    golden("internal-only.nft", &ruleset(&policy(Mode::InternalOnly)));
    let list = vec![allow("203.0.113.0/24", 443, Proto::Tcp), allow("198.51.100.7/32", 123, Proto::Udp)];
    golden("allowlist.nft", &ruleset(&policy(Mode::Allowlist(list))));
    golden("external-allowed.nft", &ruleset(&policy(Mode::ExternalAllowed)));
    for (name, mode) in [
        ("tunnel-internal-only.nft", Mode::InternalOnly),
        ("tunnel-external-allowed.nft", Mode::ExternalAllowed),
    ] {
        let mut policy = policy(mode);
        policy.mesh_targets.push("100.64.0.9:443".parse().unwrap());
        golden(name, &ruleset(&Policy { tunnel: Some(tunnel()), ..policy }));
    }
    golden("link-dhcp.nft", &link_ruleset(&"eth0".parse().unwrap(), Some(0x0da1)));
    golden("link-static.nft", &link_ruleset(&"eth0".parse().unwrap(), None));
}

fn modes() -> impl Strategy<Value = Mode> {
    let proto = prop_oneof![Just(Proto::Tcp), Just(Proto::Udp)];
    let entry =
        (any::<[u8; 4]>(), 0u8..=32, any::<u16>(), proto).prop_map(|(address, length, port, proto)| {
            let cidr = ipnet::Ipv4Net::new(address.into(), length).unwrap().into();
            Allow { cidr, port, proto }
        });
    prop_oneof![
        Just(Mode::InternalOnly),
        Just(Mode::ExternalAllowed),
        proptest::collection::vec(entry, 0..8).prop_map(Mode::Allowlist),
    ]
}

fn tunnels() -> impl Strategy<Value = Option<Tunnel>> {
    let prefix = (any::<[u8; 4]>(), 1u8..=32)
        .prop_map(|(address, length)| ipnet::Ipv4Net::new(address.into(), length).unwrap().trunc());
    let server = prop_oneof![
        (any::<[u8; 4]>(), any::<u16>()).prop_map(|(address, port)| LoginServer::At((address, port).into())),
        any::<u16>().prop_map(|port| LoginServer::Named { port }),
    ];
    let resolvers = proptest::collection::vec((any::<[u8; 4]>(), any::<u16>()), 0..3);
    let relays = proptest::collection::vec(any::<u16>(), 0..3);
    let some = (proptest::collection::vec(prefix, 1..3), server, any::<u16>(), resolvers, relays);
    proptest::option::of(some.prop_map(|(prefixes, login_server, port, resolvers, relay_ports)| Tunnel {
        prefixes,
        port,
        login_server,
        resolvers: resolvers.into_iter().map(|(address, port)| (address, port).into()).collect(),
        relay_ports,
        ..tunnel()
    }))
}

fn policies() -> impl Strategy<Value = Policy> {
    let sockets = || proptest::collection::vec((any::<[u8; 4]>(), any::<u16>()), 0..5);
    let mark = proptest::option::of(1u32..);
    let inbound = proptest::collection::vec(any::<u16>(), 0..5);
    (modes(), 0u8..6, inbound, sockets(), sockets(), mark, tunnels()).prop_map(
        |(mode, services, inbound, targets, time_servers, dhcp_mark, tunnel)| Policy {
            services: (1..=services)
                .map(|number| Service { number, name: format!("s{number}").parse().unwrap() })
                .collect(),
            inbound,
            mesh_targets: targets.into_iter().map(|(address, port)| (address, port).into()).collect(),
            time_servers: time_servers.into_iter().map(|(address, port)| (address, port).into()).collect(),
            backends: (1..=services).map(|service| Backend { service, port: 8000 }).collect(),
            dhcp_mark,
            tunnel,
            ..policy(mode)
        },
    )
}

fn chains_end(set: &Ruleset) {
    for chain in set.chains.iter().filter(|c| c.name != "dhcp" && c.name != "srcnat") {
        let last = chain.rules.last().unwrap();
        let certain = last.terms.iter().all(|t| matches!(t, Term::Count(_)));
        let ends = matches!(last.verdict, Some(Verdict::Drop | Verdict::Goto(_)));
        assert!(certain && ends, "chain {} can be fallen out of: {last}", chain.name);
    }
}

proptest! {
    /// No hook lets through by default, no chain is fallen out of, every drop is counted, every jump has a target.
    #[test]
    fn nothing_passes_by_accident(policy in policies()) {
        for set in [ruleset(&policy), link_ruleset(&policy.link, policy.dhcp_mark)] {
            for chain in &set.chains {
                let open = chain.base.as_ref().is_some_and(|b| b.policy == ChainPolicy::Accept);
                prop_assert_eq!(open, chain.name == "srcnat");
                for rule in &chain.rules {
                    let counted = rule.terms.iter().any(|t| matches!(t, Term::Count(_)));
                    prop_assert_eq!(counted, rule.verdict == Some(Verdict::Drop), "{}", rule);
                    let blind = rule.verdict == Some(Verdict::Accept) && rule.terms.is_empty();
                    prop_assert!(!blind, "chain {} accepts everything", chain.name);
                    if let Some(Verdict::Jump(to) | Verdict::Goto(to)) = &rule.verdict {
                        prop_assert!(set.chains.iter().any(|c| c.name == *to && c.base.is_none()), "{}", to);
                    }
                }
            }
            chains_end(&set);
        }
    }

    /// In internal-only mode without a private network no rule accepts anything that a service sends out, or marks a flow as a
    /// service's.
    #[test]
    fn internal_only_has_no_rule_for_services(mut policy in policies()) {
        policy.mode = Mode::InternalOnly;
        policy.tunnel = None;
        let set = ruleset(&policy);
        let accepts = |r: &&Rule| r.verdict == Some(Verdict::Accept);
        for chain in set.chains.iter().filter(|c| c.name.starts_with("service_") || c.name == "forwarded") {
            prop_assert_eq!(chain.rules.iter().filter(accepts).count(), 0);
        }
        let text = set.to_string();
        prop_assert!(!text.contains("masquerade"));
        prop_assert!(!text.contains("ct mark set 0x00000008"));
    }

    /// With one, every rule that accepts, marks or translates what a service sends names the TUN, and one of the network's prefixes.
    #[test]
    fn internal_only_leads_into_the_private_network_only(mut policy in policies(), tunnel in tunnels()) {
        policy.mode = Mode::InternalOnly;
        policy.tunnel = Some(tunnel.unwrap_or_else(self::tunnel));
        let tunnel = policy.tunnel.clone().unwrap();
        let set = ruleset(&policy);
        let accepts = |r: &&Rule| r.verdict == Some(Verdict::Accept);
        for chain in set.chains.iter().filter(|c| c.name.starts_with("service_") || c.name == "forwarded") {
            for rule in chain.rules.iter().filter(accepts) {
                let text = rule.to_string();
                let inside = tunnel.prefixes.iter().any(|prefix| rule.terms.contains(&Term::Destination((*prefix).into())));
                prop_assert!(inside && text.contains("oifname \"tailnet0\""), "{}", text);
            }
        }
        for line in set.to_string().lines().filter(|line| line.contains("masquerade")) {
            prop_assert!(line.contains("oifname \"tailnet0\""), "{}", line);
        }
    }

    /// Before anything else is asked about a packet of the link: none of the private network's addresses is in it. And before
    /// anything of a service, of our processes or of the kernel is let out by the link, such addresses have been dropped.
    #[test]
    fn the_networks_addresses_stay_off_the_link(mut policy in policies(), tunnel in tunnels()) {
        let tunnel = tunnel.unwrap_or_else(self::tunnel);
        policy.tunnel = Some(tunnel.clone());
        let set = ruleset(&policy);
        let nets = || tunnel.prefixes.iter().map(|p| (*p).into()).chain([crate::term::host(tunnel.names)]);
        let chain = |name: &str| set.chains.iter().find(|c| c.name == name).unwrap();
        let drop_at = |name: &str, term: &Term| {
            chain(name).rules.iter().position(|r| r.verdict == Some(Verdict::Drop) && r.terms.contains(term))
        };
        let first_accept = |name: &str, on: Term| {
            let accepts = |r: &Rule| r.verdict == Some(Verdict::Accept) && r.terms.contains(&on);
            chain(name).rules.iter().position(accepts).unwrap_or(usize::MAX)
        };
        for net in nets() {
            let accept = first_accept("prerouting", Term::InputInterface(policy.link.clone()));
            prop_assert!(drop_at("prerouting", &Term::Source(net)).unwrap() < accept);
            prop_assert!(drop_at("prerouting", &Term::Destination(net)).unwrap() < accept);
            let out = Term::OutputInterface(policy.link.clone());
            for name in ["vpn", "mesh", "time", "our_own"] {
                prop_assert!(drop_at(name, &Term::Destination(net)).unwrap() < first_accept(name, out.clone()), "{}", name);
            }
            for service in &policy.services {
                let name = format!("service_{}", service.number);
                prop_assert!(drop_at(&name, &Term::Destination(net)).unwrap() < first_accept(&name, Term::SetCtMark(0x8)).max(drop_at(&name, &Term::NotOutputInterface(policy.link.clone())).unwrap()));
            }
        }
    }

    /// What may come out of the TUN has a source of the network.
    #[test]
    fn the_tun_brings_the_networks_addresses_only(mut policy in policies(), tunnel in tunnels()) {
        let tunnel = tunnel.unwrap_or_else(self::tunnel);
        policy.tunnel = Some(tunnel.clone());
        let set = ruleset(&policy);
        let tun = Term::InputInterface(tunnel.interface.clone());
        let chain = set.chains.iter().find(|c| c.name == "prerouting").unwrap();
        let accepted: Vec<&Rule> = chain.rules.iter()
            .filter(|r| r.verdict == Some(Verdict::Accept) && r.terms.contains(&tun)).collect();
        prop_assert_eq!(accepted.len(), tunnel.prefixes.len());
        for (rule, prefix) in accepted.iter().zip(&tunnel.prefixes) {
            prop_assert!(rule.terms.contains(&Term::Source((*prefix).into())));
        }
    }

    /// Whatever the mode: the time process is accepted to as many places as are named, each by address, port and
    /// protocol and on the link only, and nothing else speaks of NTP.
    #[test]
    fn time_reaches_the_named_servers_only(mut policy in policies()) {
        if let Mode::Allowlist(_) = policy.mode {
            policy.mode = Mode::InternalOnly;
        }
        let set = ruleset(&policy);
        let chain = set.chains.iter().find(|c| c.name == "time").unwrap();
        let texts: Vec<String> = chain.rules.iter().map(ToString::to_string).collect();
        let mut expected = Vec::new();
        if let Some(tunnel) = &policy.tunnel {
            let names = crate::term::host(tunnel.names);
            for net in tunnel.prefixes.iter().map(|prefix| (*prefix).into()).chain([names]) {
                let rule = [Term::OutputInterface(policy.link.clone()), Term::Destination(net)];
                expected.push(Rule::drop(rule, "process:time").to_string());
            }
        }
        for server in &policy.time_servers {
            for port in [format!("tcp dport {}", server.port()), "udp dport 123".to_owned()] {
                expected.push(format!(
                    "oifname \"eth0\" ip daddr {} {port} ct direction original ct mark set 0x00000001 accept",
                    server.ip()
                ));
            }
        }
        expected.push("counter name \"process:time\" drop".to_owned());
        prop_assert_eq!(texts, expected);
        let jumps: Vec<String> = set.chains.iter().flat_map(|c| &c.rules).map(ToString::to_string)
            .filter(|text| text.ends_with("to time")).collect();
        prop_assert_eq!(jumps, ["meta skuid 107 goto time"]);
    }

    /// Whatever the mode: what the mesh process opens on the link goes to the named places, each by address and port.
    #[test]
    fn mesh_reaches_the_named_places_only(mut policy in policies()) {
        if let Mode::Allowlist(_) = policy.mode {
            policy.mode = Mode::InternalOnly;
        }
        let set = ruleset(&policy);
        let chain = set.chains.iter().find(|c| c.name == "mesh").unwrap();
        let texts: Vec<String> = chain.rules.iter().map(ToString::to_string)
            .filter(|text| text.contains("ct mark set 0x00000001")).collect();
        let by = |target: &std::net::SocketAddr| match &policy.tunnel {
            Some(tunnel) if tunnel.contains(target.ip()) => "tailnet0",
            _ => "eth0",
        };
        let expected: Vec<String> = policy.mesh_targets.iter().map(|target| format!(
            "oifname \"{}\" ip daddr {} tcp dport {} ct direction original ct mark set 0x00000001 accept",
            by(target),
            target.ip(),
            target.port()
        )).collect();
        prop_assert_eq!(texts, expected);
        let jumps: Vec<String> = set.chains.iter().flat_map(|c| &c.rules).map(ToString::to_string)
            .filter(|text| text.ends_with("to mesh")).collect();
        prop_assert_eq!(jumps, ["meta skuid 103 goto mesh"]);
    }

    /// Whatever the mode: by TCP the VPN process opens connections on the link to its server, to the resolvers and to the relays'
    /// ports, and a set has addresses for nobody else.
    #[test]
    fn the_vpn_process_reaches_its_server_resolvers_and_relays_by_tcp(mut policy in policies(), tunnel in tunnels()) {
        let tunnel = tunnel.unwrap_or_else(self::tunnel);
        policy.tunnel = Some(tunnel.clone());
        let set = ruleset(&policy);
        let chain = set.chains.iter().find(|c| c.name == "vpn").unwrap();
        let texts: Vec<String> = chain.rules.iter().map(ToString::to_string)
            .filter(|text| text.contains("oifname \"eth0\"") && text.contains("tcp dport")).collect();
        let opens = "ct direction original ct mark set 0x00000001 accept";
        let mut expected = match tunnel.login_server {
            LoginServer::At(server) => {
                vec![format!("oifname \"eth0\" ip daddr {} tcp dport {} {opens}", server.ip(), server.port())]
            }
            LoginServer::Named { port } => vec![
                format!("oifname \"eth0\" tcp dport {port} ct direction original ct state established ct mark & 0x00000001 != 0x00000000 accept"),
                format!("oifname \"eth0\" ip daddr @login4 tcp dport {port} {opens}"),
            ],
        };
        for resolver in &tunnel.resolvers {
            expected.push(format!("oifname \"eth0\" ip daddr {} tcp dport {} {opens}", resolver.ip(), resolver.port()));
        }
        for port in &tunnel.relay_ports {
            expected.push(format!("oifname \"eth0\" meta protocol ip tcp dport {port} {opens}"));
        }
        prop_assert_eq!(texts, expected);
        let named = matches!(tunnel.login_server, LoginServer::Named { .. });
        prop_assert_eq!(set.sets.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), if named { vec!["login4"] } else { vec![] });
        let others = set.chains.iter().filter(|c| c.name != "vpn").flat_map(|c| &c.rules);
        prop_assert_eq!(others.filter(|rule| rule.to_string().contains("@login4")).count(), 0);
    }

    #[test]
    fn it_is_a_function_of_the_policy(policy in policies()) {
        prop_assert_eq!(ruleset(&policy), ruleset(&policy.clone()));
    }
}

#[test]
fn an_ipv4_target_in_ipv6_clothes_is_ipv4() {
    let mut policy = policy(Mode::InternalOnly);
    policy.mesh_targets = vec!["[::ffff:192.0.2.9]:443".parse().unwrap()];
    assert!(ruleset(&policy).to_string().contains("ip daddr 192.0.2.9 tcp dport 443"));
}

#[test]
fn around_a_tunnel_on_any_machine() {
    let prefixes = ["100.64.0.0/10", "fd7a:115c:a1e0::/48"].map(|net| net.parse().unwrap());
    let names = ["100.100.100.100", "fd7a:115c:a1e0::53"].map(|name| name.parse().unwrap());
    golden("guard.nft", &guard_ruleset(&"casemate0".parse().unwrap(), &prefixes, &names));
}
