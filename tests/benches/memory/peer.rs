//! systemd with journald, dbus and the same two services, as process 1 of namespaces on this host, measured from outside.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use crate::Memory;
use crate::guest::Sums;

/// What must run before the peer is what is to be measured.
const AWAITED: [&str; 5] = ["systemd", "systemd-journal", "dbus-daemon", "httpd", "sleep"];
/// The first run installs Debian's packages into a folder.
const PATIENCE: Duration = Duration::from_secs(900);
/// Idle for so long.
const IDLE: Duration = Duration::from_secs(15);

/// The script, ended with everything in it.
struct Container(Child);

impl Drop for Container {
    fn drop(&mut self) {
        // By its own trap, which also removes its cgroup; nothing can be done about one that is left.
        let pid = self.0.id().to_string();
        drop(Command::new("kill").args(["-TERM", &pid]).status());
        drop(self.0.wait());
    }
}

/// A process in the container, as the host sees it.
struct Process {
    name: String,
    kept: Memory,
    is_first: bool,
}

pub(crate) fn measure(busybox: &Path) -> anyhow::Result<Sums> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/memory/systemd");
    let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../qemu/packages");
    let ready = Command::new(packages).args(["debootstrap:debootstrap", "unshare:util-linux"]).status()?;
    ensure!(ready.success(), "debootstrap or unshare is missing");
    let root = cache()?.join("systemd-root");
    let child =
        Command::new(&script).arg(&root).arg(busybox).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    let mut container = Container(child.with_context(|| script.display().to_string())?);
    let begin = Instant::now();
    loop {
        ensure!(container.0.try_wait()?.is_none(), "it ended at once");
        let names: Vec<String> =
            processes(container.0.id())?.into_iter().map(|process| process.name).collect();
        if AWAITED.iter().all(|awaited| names.iter().any(|name| name == awaited)) {
            break;
        }
        ensure!(begin.elapsed() < PATIENCE, "not all of {AWAITED:?} ran in time, but {names:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
    std::thread::sleep(IDLE);
    let mut sums = Sums { pid1: Memory::default(), all: Memory::default() };
    for process in processes(container.0.id())? {
        let Process { name, kept, is_first } = process;
        println!("memory who=systemd process={name} rss_kb={} pss_kb={}", kept.rss, kept.pss);
        sums.all = sums.all + kept;
        if is_first {
            sums.pid1 = kept;
        }
    }
    ensure!(sums.pid1.rss > 0, "its process 1 was not seen");
    println!("memory who=systemd process=all rss_kb={} pss_kb={}", sums.all.rss, sums.all.pss);
    Ok(sums)
}

/// Where the peer's root is kept between runs.
fn cache() -> anyhow::Result<PathBuf> {
    let base = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
        (Some(cache), _) => PathBuf::from(cache),
        (None, Some(home)) => PathBuf::from(home).join(".cache"),
        (None, None) => bail!("neither XDG_CACHE_HOME nor HOME is set"),
    };
    let cache = base.join("casemate");
    fs::create_dir_all(&cache).with_context(|| cache.display().to_string())?;
    Ok(cache)
}

/// Everything below the script that is in another pid namespace than ours.
fn processes(script: u32) -> anyhow::Result<Vec<Process>> {
    let ours = fs::read_link("/proc/self/ns/pid")?;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
        if number.is_none() {
            continue;
        }
        // One that ends while we look is none.
        if let Ok(Some(process)) = look(&path, script, &ours) {
            found.push(process);
        }
    }
    Ok(found)
}

fn look(path: &Path, script: u32, ours: &Path) -> io::Result<Option<Process>> {
    // Its namespace's process 1 must be a grandchild of the script: script, unshare, systemd.
    if fs::read_link(path.join("ns/pid"))? == ours || !descends(path, script)? {
        return Ok(None);
    }
    let status = fs::read_to_string(path.join("status"))?;
    let inner = status.lines().find_map(|line| line.strip_prefix("NSpid:")?.split_whitespace().last());
    let rollup = fs::read_to_string(path.join("smaps_rollup"))?;
    let number = |name: &str| {
        let value = rollup.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.and_then(|value| value.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
    };
    let name = fs::read_to_string(path.join("comm"))?.trim_end().to_owned();
    let kept = Memory { rss: number("Rss"), pss: number("Pss") };
    Ok(Some(Process { name, kept, is_first: inner == Some("1") }))
}

fn descends(path: &Path, ancestor: u32) -> io::Result<bool> {
    let mut path = path.to_owned();
    for _ in 0..64 {
        let stat = fs::read_to_string(path.join("stat"))?;
        // The name in brackets may hold anything; state and parent follow the last one.
        let parent =
            stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        match parent {
            Some(parent) if parent == ancestor => return Ok(true),
            Some(parent) if parent > 1 => path = PathBuf::from(format!("/proc/{parent}")),
            _ => return Ok(false),
        }
    }
    Ok(false)
}
