use crate::policy::{Mode, Policy, Service, Uids};

pub(crate) fn policy(mode: Mode) -> Policy {
    let service = |number, name: &str| Service { number, name: name.parse().unwrap() };
    Policy {
        mode,
        link: "eth0".parse().unwrap(),
        services: vec![service(1, "web"), service(2, "db")],
        inbound: vec![443, 27017],
        mesh_targets: vec!["192.0.2.7:443".parse().unwrap(), "[2001:db8::7]:443".parse().unwrap()],
        backends: vec![crate::Backend { service: 1, port: 8000 }, crate::Backend { service: 2, port: 27017 }],
        uids: Uids { agent: 101, vpn: 102, mesh: 103, vpc: 104, dhcp: 105 },
        dhcp_mark: Some(0x0da1),
    }
}
