//! How much memory an idle guest's processes keep, beside systemd with the same services in a container; and how many system
//! calls a boot makes.
//!
//! ```sh
//! cargo bench --profile dev -p casemate-tests --bench memory                 # all of it
//! cargo bench --profile dev -p casemate-tests --bench memory -- guest        # or a part: guest, systemd, syscalls
//! cargo test -p casemate-tests --bench memory                                # smoke: the guest alone
//! ```
//!
//! The promise is about RSS: what every process has mapped and resident, pages that several map counted for each of them. PSS
//! divides those, and sums to what is really in use; it is printed beside. Of a guest's services PID 1 reads the charge of their
//! cgroup in place of both: it has no part in pages of the image's files, which an RSS would count.

#[path = "../boot/machine.rs"]
mod machine;
#[path = "../boot/plan.rs"]
mod plan;

mod guest;
mod peer;
mod syscalls;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;
use casemate_image::progress::Progress;

/// The demo's document with a service that sleeps in place of the one that tries the outside.
const DOCUMENT: &str = "tests/benches/memory/idle.app-compose.json";
/// The promises (design section 12 and issue 4), KiB of RSS.
const PROMISED_PID1: u64 = 4 << 10;
const PROMISED_ALL: u64 = 24 << 10;

/// What a process keeps, KiB.
#[derive(Clone, Copy, Debug, Default)]
struct Memory {
    rss: u64,
    pss: u64,
}

impl std::ops::Add for Memory {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { rss: self.rss + other.rss, pss: self.pss + other.pss }
    }
}

fn main() -> ExitCode {
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("memory bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Guest,
    Systemd,
    Syscalls,
}

/// `cargo bench` says `--bench`, `cargo test` does not.
fn parts() -> anyhow::Result<Vec<Part>> {
    let mut named = Vec::new();
    let mut all = false;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--bench" => all = true,
            "guest" => named.push(Part::Guest),
            "systemd" => named.push(Part::Systemd),
            "syscalls" => named.push(Part::Syscalls),
            other => bail!("expected guest, systemd or syscalls, found {other:?}"),
        }
    }
    Ok(match (named.is_empty(), all) {
        (false, _) => named,
        (true, true) => vec![Part::Guest, Part::Systemd, Part::Syscalls],
        (true, false) => vec![Part::Guest],
    })
}

fn bench() -> anyhow::Result<()> {
    let parts = parts()?;
    println!("# {}", machine::version()?);
    println!("# load average {}", std::fs::read_to_string("/proc/loadavg")?.trim_end());
    let progress = Progress::new();
    let plan::Demo { place, plan } = plan::demo("bench-memory", Path::new(DOCUMENT), &progress)?;
    let mut image: Option<PathBuf> = None;
    let mut ours: Option<guest::Sums> = None;
    for part in parts {
        if part == Part::Systemd {
            let peer = match peer::measure(&place.join("busybox")) {
                Ok(peer) => peer,
                // Said, and no figure of another kind put in its place.
                Err(error) => {
                    println!("SKIPPED: no peer: systemd as process 1 of namespaces: {error:#}");
                    continue;
                }
            };
            if let Some(ours) = &ours {
                compare("pid1", ours.pid1, peer.pid1);
                compare("all", ours.all, peer.all);
            }
            continue;
        }
        let image = match &image {
            Some(image) => image.clone(),
            None => image.insert(plan::build(&plan, &progress)?).clone(),
        };
        match part {
            Part::Guest => ours = Some(guest::measure(&image)?),
            Part::Syscalls => syscalls::count(&image)?,
            Part::Systemd => {}
        }
    }
    Ok(())
}

fn compare(what: &str, ours: Memory, peer: Memory) {
    #[expect(clippy::cast_precision_loss, reason = "a few megabytes in KiB")]
    let ratio = |ours: u64, peer: u64| ours as f64 / peer as f64;
    println!(
        "ratio name=memory-{what} ours_rss_kb={} peer_rss_kb={} rss={:.2} pss={:.2}",
        ours.rss,
        peer.rss,
        ratio(ours.rss, peer.rss),
        ratio(ours.pss, peer.pss)
    );
}

fn promise(what: &str, limit: u64, found: u64) {
    let kept = if found <= limit { "kept" } else { "MISSED" };
    println!("promise name=memory-{what} limit_rss_kb={limit} found_rss_kb={found} {kept}");
}
