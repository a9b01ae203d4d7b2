//! The VPN among what it must live with: real Headscale of three versions and the real Go client, each in network
//! namespaces of its own, behind NATs where a test says so. First each rig is shown to do with two Go clients what it is for,
//! then ours takes the place of one of them, then of both.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "in tests and their helpers a panic is the report"
)]

mod built;
mod certificate;
#[path = "../../init/vpn/tests/control_server/mod.rs"]
mod control_server;
mod flow;
mod headscale;
#[allow(dead_code, reason = "shared with the tests of the network with machines")]
mod net;
mod ours;
mod peer;
mod process;
mod proxy;
mod resolver;
mod scripted;
mod tailscaled;
mod wait;
mod wire;

mod admission;
mod attackers;
mod bad_wires;
mod crowd;
mod figures;
mod joins;
mod liars;
mod lost_relays;
mod nats;
mod outages;
mod pairs;
mod policy;
mod registration;
mod relays;
mod roaming;
mod rotation;

/// Whether ours is to be the released build, which takes longer to make.
const RELEASED: bool = false;

/// What `tests/run` begins early, beside what needs one CPU only.
#[test]
fn the_peers_are_built() {
    use built::Release;

    for release in [Release::V0_26, Release::V0_28, Release::V0_29] {
        assert!(built::headscale(release).is_file(), "{release:?}");
    }
    for program in ["tailscaled", "tailscale"] {
        assert!(built::tailscale().join(program).is_file(), "{program}");
    }
}

/// The same of ours as it is shipped: built in the midst of the others, it would take all processors from those who watch clocks.
#[test]
fn what_is_shipped_is_built() {
    assert!(built::casemate_init_released().is_file());
}
