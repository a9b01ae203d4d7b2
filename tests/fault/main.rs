//! The fault table: what breaks, where, and the documented rule that the machine then follows, as its status frames say it.
//!
//! Each row of [`table`] is a fault and what must follow; several share a machine where they do not disturb each other. The
//! guest is compiled with `danger-faults`, which lets the host order what breaks (init/src/guest/faults.rs). Time passes as
//! fast as QEMU can count instructions, and at once where the guest waits.

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
#[path = "../../init/vpn/tests/control_server/mod.rs"]
mod control_server;
#[path = "../tunnel/frames.rs"]
#[allow(dead_code, reason = "shared with the tests of the network between machines")]
mod frames;
#[path = "../tunnel/guest.rs"]
#[allow(dead_code, reason = "shared with the tests of the network between machines")]
mod guest;
#[path = "../tailnet/headscale.rs"]
#[allow(dead_code, reason = "shared with the tests of the network without machines")]
mod headscale;
#[path = "../boot/https.rs"]
#[allow(dead_code, reason = "shared with the boot tests")]
mod https;
#[path = "../boot/images.rs"]
#[allow(dead_code, reason = "shared with the boot tests")]
mod images;
#[path = "../tunnel/listener.rs"]
#[allow(dead_code, reason = "shared with the tests of the network between machines")]
mod listener;
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

mod clock;
mod disk;
mod host;
mod hostile;
mod judge;
mod processes;
mod table;
mod vpn;

/// Whether `casemate-init vpn`, which runs outside of machines, is to be the released build: none runs here.
const RELEASED: bool = false;
