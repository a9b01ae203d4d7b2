//! A hostile network: DHCP answers that QEMU's own server would never give. The other end of the guest's wire is ours, and
//! sees every frame that leaves it.

use std::net::Ipv4Addr;

use casemate_measure::status::{Reason, Stage};
use casemate_qemu::shape::Network;
use casemate_tests::hostile_dhcp::{ATTACKER, Answer, GATEWAY, GUEST, Peer, Summary};

use crate::images::Image;
use crate::machine::{Machine, Options, PATIENCE, qemu};

/// Where the workload tries to connect, through the gateway: documentation addresses (RFC 5737).
const FAR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
const FAR_PORT: u16 = 4000;

/// May reach everything: what keeps it from following hostile options is not the lock's mode.
const DOCUMENT: &str = r#"{
  "manifest_version": 2, "name": "boot-network", "runner": "casemate", "key_provider": "none", "secure_time": false,
  "casemate": {
    "version": 1, "role": "node", "node": { "name": "network", "type": "test" },
    "network": { "mode": "dhcp" }, "vpn": { "mode": "direct" }, "egress": { "mode": "external-allowed" },
    "mesh": { "backends": [], "verify": "quote", "images": ["same"] },
    "services": [{
      "name": "probe", "rootfs": "probe", "uid": 1000, "restart": "always",
      "exec": ["/bin/sh", "-c", "while sleep 1; do nc -w 2 203.0.113.7 4000 </dev/null; done"]
    }]
  }
}"#;

fn image() -> Image {
    static IMAGE: std::sync::LazyLock<Image> = std::sync::LazyLock::new(|| Image::of("network", DOCUMENT));
    IMAGE.clone()
}

fn options(peer: &Peer) -> Options {
    let netdev = format!("socket:connect={}", peer.address()).parse().unwrap();
    Options { network: Some(Network::Socket(netdev)), ..Options::default() }
}

/// Before each good answer come all spoiled ones, and the good one is full of options that would lead a naive client astray.
#[test]
fn hostile_options_are_not_followed() {
    if !qemu() {
        return;
    }
    let peer = Peer::listen(|asked| {
        let good = Answer::to(asked);
        let mut all = good.spoiled();
        all.push(good.with_hostile_options().bytes());
        all
    })
    .unwrap();
    let machine = Machine::switch_on(&image(), options(&peer));
    machine.wait_ready();
    let connects = |summary| matches!(summary, Summary::Ipv4 { destination: FAR, protocol: TCP, .. });
    let first = peer.wait_for(PATIENCE, |frame| connects(frame.summary())).expect("no connection is tried");
    // Its MTU is Ethernet's and not option 26's: TCP's maximum segment size is 1500 - 40 (RFC 9293 section 3.7.1).
    assert!(first.bytes().windows(4).any(|option| option == [2, 4, 0x05, 0xb4]), "{:?}", first.bytes());
    machine.power_off().assert_orderly();

    let (guest, gateway) = (Ipv4Addr::from(GUEST), Ipv4Addr::from(GATEWAY));
    let frames = peer.frames();
    for frame in &frames {
        assert!(!frame.names(ATTACKER), "{frame:?}: {:?}", frame.bytes());
        let allowed = match frame.summary() {
            Summary::Arp { sender, target, .. } => sender == guest && (target == gateway || target == guest),
            Summary::Ipv4 { source, destination, protocol, source_port, destination_port } => {
                let dhcp = (protocol, source_port, destination_port) == (UDP, 68, 67)
                    && [Ipv4Addr::UNSPECIFIED, guest].contains(&source);
                let far = (source, destination, protocol, destination_port) == (guest, FAR, TCP, FAR_PORT);
                dhcp || far
            }
            Summary::Other(_) => false,
        };
        assert!(allowed, "{frame:?}: {:?}", frame.bytes());
    }
    let asks_for_gateway =
        |summary| matches!(summary, Summary::Arp { request: true, target, .. } if target == gateway);
    assert!(frames.iter().any(|frame| asks_for_gateway(frame.summary())), "{frames:?}");
}

/// Guest time passes as fast as QEMU can count instructions, and at once where the guest waits: the stage has 120 s.
const FAST: &str = "-icount shift=3,sleep=off";

#[test]
fn without_an_acceptable_offer_there_is_no_address() {
    if !qemu() {
        return;
    }
    let peer = Peer::listen(|asked| Answer::to(asked).spoiled()).unwrap();
    let ended = Machine::switch_on(&image(), Options { extra: FAST, ..options(&peer) }).wait_end();
    ended.assert_failed(Stage::Address, Reason::NoAddress);
    assert!(ended.console_says("DHCP messages were ignored"), "{ended}");
    let frames = peer.frames();
    assert!(!frames.is_empty());
    for frame in &frames {
        assert!(frame.dhcp_kind().is_some(), "{frame:?}: {:?}", frame.bytes());
    }
}

const TCP: u8 = 6;
const UDP: u8 = 17;
