//! The private network in the image: two machines with `vpn.mode: tunnel`, a real Headscale and the real Go client on hosts of
//! their own, and every frame that the machines send.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests and their rig: what fails here fails the test"
)]

#[path = "../tailnet/built.rs"]
#[allow(dead_code, reason = "shared with the tests of the network without machines")]
mod built;
#[path = "../tailnet/certificate.rs"]
#[allow(dead_code, reason = "shared with the tests of the network without machines")]
mod certificate;
#[path = "../boot/console.rs"]
#[allow(dead_code, reason = "shared with the boot tests")]
mod console;
#[path = "../tailnet/headscale.rs"]
#[allow(dead_code, reason = "shared with the tests of the network without machines")]
mod headscale;
#[path = "../boot/https.rs"]
#[allow(dead_code, reason = "shared with the boot tests")]
mod https;
#[path = "../boot/images.rs"]
#[allow(dead_code, reason = "shared with the boot tests")]
mod images;
#[path = "../boot/machine.rs"]
#[allow(dead_code, reason = "shared with the boot tests")]
mod machine;
#[path = "../tailnet/net.rs"]
#[allow(dead_code, reason = "shared with the tests of the network without machines")]
mod net;
#[path = "../tailnet/ours.rs"]
#[allow(dead_code, reason = "shared with the tests of the network without machines")]
mod ours;
#[path = "../tailnet/peer.rs"]
#[allow(dead_code, reason = "shared with the tests of the network without machines")]
mod peer;
#[path = "../tailnet/process.rs"]
#[allow(dead_code, reason = "shared with the tests of the network without machines")]
mod process;
#[path = "../tailnet/tailscaled.rs"]
#[allow(dead_code, reason = "shared with the tests of the network without machines")]
mod tailscaled;
#[path = "../tailnet/wait.rs"]
#[allow(dead_code, reason = "shared with the tests of the network without machines")]
mod wait;

mod frames;
mod guest;
mod listener;
mod reach;

/// Whether `casemate-init vpn`, which runs outside of machines, is to be the released build: none runs here.
const RELEASED: bool = false;
