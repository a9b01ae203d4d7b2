//! The same files as a Linux guest reads them: another way there, the image's own kernel, and QEMU with the rest of the
//! arguments of a real boot.

use std::fs;
use std::io::Read as _;
use std::num::NonZeroU16;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use casemate_image::assemble::InitBinary;
use casemate_qemu::acpi::{Blobs, Machine};
use casemate_qemu::argv::{BootFiles, Channel, Wiring, argv};
use casemate_qemu::image::CheckedImage;
use casemate_qemu::shape::{Firmware, Network, Platform, VmShape};

use crate::images::{place, workspace};

/// From power-on to the last byte; it takes ten seconds.
const PATIENCE: Duration = Duration::from_secs(120);
/// No kernel lockdown, which forbids port I/O.
const CMDLINE: &str = "panic=-1 quiet loglevel=0";

/// The witness, compiled.
pub(crate) fn init() -> InitBinary {
    let out = place("acpi-witness");
    let mut compiler = Command::new("cc");
    compiler.args(["-static", "-Os", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&out);
    compiler.arg(workspace().join("tests/acpi/witness.c"));
    assert!(compiler.status().unwrap().success(), "cc, with a static C library (gcc, libc6-dev)");
    InitBinary::prebuilt(&out).unwrap()
}

/// Boots the image with the witness in it, in that machine, and listens. Some boots with two CPUs go wrong under QEMU 7.2.
pub(crate) fn testify(image: &Path, machine: &Machine, program: &str) -> Blobs {
    (0..3).find_map(|_| once(image, machine, program)).expect("Linux came up in none of three tries")
}

fn once(image: &Path, machine: &Machine, program: &str) -> Option<Blobs> {
    let dir = tempfile::Builder::new().prefix("casemate-witness.").tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let files = BootFiles { cmdline: CMDLINE.into(), ..CheckedImage::open(image).unwrap().boot_files() };
    let shape = VmShape {
        platform: Platform::Tcg(Firmware::Ovmf),
        memory_mib: machine.memory_mib,
        cpus: NonZeroU16::new(machine.cpus.get()).unwrap(),
        dev: None,
        network: Network::User(Vec::new()),
    };
    let wiring = Wiring {
        status: Channel::Listen(at("status.sock")),
        control: Channel::Listen(at("control.sock")),
        qmp: at("qmp.sock"),
        console: at("console.log"),
        pcap: None,
        share: None,
    };
    // What a trust domain has besides: no PIC, and a host's physical address bits.
    let args = argv(&shape, &files, &wiring).into_iter().map(|arg| match arg.as_str() {
        "q35,hpet=off,smm=off" => "q35,hpet=off,smm=off,pic=off".to_owned(),
        "max" => "max,phys-bits=46".to_owned(),
        "tcg" => "tcg,thread=single".to_owned(),
        _ => arg,
    });
    let log = fs::File::create(at("qemu.log")).unwrap();
    let child = Command::new(program).args(args).stdin(Stdio::null()).stderr(log).spawn().unwrap();
    let mut qemu = Qemu(child);
    let begin = Instant::now();
    let mut status = loop {
        match UnixStream::connect(at("status.sock")) {
            Ok(socket) => break socket,
            Err(error) => {
                let said = fs::read_to_string(at("qemu.log")).unwrap_or_default();
                assert!(begin.elapsed() < PATIENCE, "no status port: {error}: {said}");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    };
    status.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut said = Vec::new();
    // The guest powers off, or its kernel resets the machine: both end QEMU, and with it the stream.
    status.read_to_end(&mut said).unwrap();
    assert!(qemu.0.wait().unwrap().success(), "{}", fs::read_to_string(at("qemu.log")).unwrap());
    let mut rest = said.as_slice();
    let mut blob = || {
        let (length, behind) = rest.split_first_chunk::<4>()?;
        let (blob, behind) = behind.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        rest = behind;
        Some(blob.to_vec())
    };
    Some(Blobs { loader: blob()?, rsdp: blob()?, tables: blob()? })
}

struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
