//! One boot in QEMU, watched on its console.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU16;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use casemate_measure::image::Flavor;
use casemate_measure::status::Frame;
use casemate_qemu::host::{Choice, Runner};
use casemate_qemu::image::CheckedImage;
use casemate_qemu::io::monitor;
use casemate_qemu::io::run::{Launch, Observer, run, settle_ports};
use casemate_qemu::qmp;
use casemate_qemu::report::Report;
use casemate_qemu::rundir::RunDir;
use casemate_qemu::shape::{DevExtras, Firmware, Forward, Network, Platform, VmShape};
use casemate_qemu::watch::Limits;

const QEMU: &str = "qemu-system-x86_64";
/// By the host's time, for a whole boot: by instructions it takes several times as long as without counting.
const PATIENCE: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(100);

/// QEMU's version.
pub(crate) fn version() -> anyhow::Result<String> {
    let output =
        Command::new(QEMU).arg("--version").output().with_context(|| format!("{QEMU} (qemu-system-x86)"))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or("QEMU").to_owned())
}

/// Boots until `look` finds what it wants on the console, then switches the machine off. `extra` is for QEMU, as a shell reads it.
pub(crate) fn boot<T>(
    image: &Path,
    extra: &str,
    mut look: impl FnMut(&str) -> Option<T>,
) -> anyhow::Result<T> {
    let temp = tempfile::Builder::new().prefix("casemate-bench.").tempdir()?;
    let checked = CheckedImage::open(image)?;
    ensure!(checked.flavor() == Flavor::Dev, "what is measured is on the development image's console");
    let host = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    let mut network = Network::User(vec![Forward { host, guest: 443 }]);
    settle_ports(&mut network)?;
    let claim = RunDir::claim(&temp.path().join("run"))?;
    let dir = claim.dir.clone();
    let launch = Launch {
        program: program(temp.path(), extra)?,
        shape: VmShape {
            platform: Platform::Tcg(Firmware::Seabios),
            memory_mib: 512,
            cpus: NonZeroU16::MIN,
            dev: Some(DevExtras { registers: *checked.registers() }),
            network,
        },
        files: checked.boot_files(),
        choice: Choice { runner: Runner::Tcg, why: "benches run everywhere".into() },
        claim,
        pcap: None,
        share: None,
        limits: Limits { ready: PATIENCE, stop: PATIENCE, alive: None },
        status_read: true,
    };
    let console = || String::from_utf8_lossy(&fs::read(dir.console()).unwrap_or_default()).into_owned();
    // QEMU ends with the thread that started it.
    let thread = std::thread::spawn(move || run(&launch, None, &mut Unheard));
    let begin = Instant::now();
    let found = loop {
        let ended = thread.is_finished();
        if let Some(found) = look(&console()) {
            break Ok(found);
        }
        if ended || begin.elapsed() > PATIENCE {
            let how = if ended { "the machine ended" } else { "not in time" };
            break Err(anyhow!("{how}; its console:\n{}", console()));
        }
        std::thread::sleep(LOOK);
    };
    if !thread.is_finished() {
        // It may just have gone by itself, which the thread tells.
        drop(monitor::command(&dir, qmp::QUIT));
    }
    match thread.join() {
        Ok(Ok(_)) => found,
        Ok(Err(error)) => found.context(error),
        Err(_) => bail!("the thread that ran QEMU panicked"),
    }
}

/// What is measured comes from the console.
struct Unheard;

impl Observer for Unheard {
    fn progress(&mut self, _: Duration, _: &Frame) {}

    fn note(&mut self, _: &str) {}

    fn ready(&mut self, _: &Report) {}
}

/// A script that gives QEMU more arguments.
fn program(dir: &Path, extra: &str) -> anyhow::Result<String> {
    let path = dir.join("qemu");
    fs::write(&path, format!("#!/bin/sh\nexec {QEMU} \"$@\" {extra}\n"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    path.to_str().map(str::to_owned).context("the temporary folder's name is not UTF-8")
}
