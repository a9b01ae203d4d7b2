//! One cgroup v2 leaf per process tree.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

/// Limits of a leaf; `None` leaves the kernel's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// Bytes.
    pub(super) memory_max: Option<u64>,
    /// Tasks.
    pub(super) pids_max: Option<u32>,
    /// Percent of one CPU.
    pub(super) cpu_max: Option<u32>,
}

/// A leaf below /sys/fs/cgroup.
#[derive(Debug)]
pub(super) struct Leaf {
    path: PathBuf,
    directory: File,
}

/// Lets leaves have limits.
pub(super) fn enable_controllers(root: &Path) -> io::Result<()> {
    fs::write(root.join("cgroup.subtree_control"), "+cpu +memory +pids")
}

impl Leaf {
    /// Makes it and sets its limits, each read back.
    pub(super) fn create(root: &Path, name: &str, limits: Limits) -> io::Result<Self> {
        let path = root.join(name);
        fs::create_dir(&path)?;
        if let Some(bytes) = limits.memory_max {
            // The kernel rounds down to pages.
            set(&path, "memory.max", &bytes.to_string(), |found| {
                found.parse::<u64>().is_ok_and(|f| f <= bytes && bytes.saturating_sub(f) < 4096)
            })?;
            for never in ["memory.swap.max", "memory.zswap.max"] {
                set(&path, never, "0", |found| found == "0").or_else(ignore_absent)?;
            }
            // The whole tree dies together, so that no half service lives on.
            set(&path, "memory.oom.group", "1", |found| found == "1")?;
        }
        if let Some(tasks) = limits.pids_max {
            let text = tasks.to_string();
            set(&path, "pids.max", &text, |found| found == text)?;
        }
        if let Some(percent) = limits.cpu_max {
            /// Microseconds; the kernel's default period.
            const PERIOD: u64 = 100_000;
            let quota = u64::from(percent).saturating_mul(PERIOD / 100);
            let text = format!("{quota} {PERIOD}");
            set(&path, "cpu.max", &text, |found| found == text)?;
        }
        Ok(Self { directory: File::open(&path)?, path })
    }

    /// How many of its processes the kernel has killed for memory, ever; 0 without the memory controller.
    pub(super) fn oom_kills(&self) -> u64 {
        self.read("memory.events").map_or(0, |events| oom_kills(&events))
    }

    /// Kills everything in it.
    pub(super) fn kill(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.kill"), "1")
    }

    /// How many bytes it is charged with; `None` without the memory controller.
    pub(super) fn memory_current(&self) -> Option<u64> {
        self.read("memory.current").ok()?.trim_end().parse().ok()
    }

    /// Removes it, once nothing runs in it.
    pub(super) fn remove(self) -> io::Result<()> {
        fs::remove_dir(&self.path)
    }

    /// Whether nothing runs in it.
    pub(super) fn is_empty(&self) -> bool {
        self.read("cgroup.events").is_ok_and(|events| events.lines().any(|line| line == "populated 0"))
    }

    /// One of its files. A text that grows as it is read would leave holes in PID 1's heap, and these are read for ever.
    fn read(&self, file: &str) -> io::Result<String> {
        /// The longest of them, memory.events, has eight short lines.
        const MOST: usize = 512;
        let mut buffer = [0; MOST];
        let length = File::open(self.path.join(file))?.read(&mut buffer)?;
        let text = std::str::from_utf8(buffer.get(..length).unwrap_or_default()).map_err(io::Error::other)?;
        Ok(text.to_owned())
    }
}

/// `oom_kill N` in memory.events (Documentation/admin-guide/cgroup-v2.rst): processes killed by any kind of OOM killer. It
/// counts each member of a group kill, too (mm/oom_kill.c, `__oom_kill_process`).
fn oom_kills(events: &str) -> u64 {
    let count = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

impl AsFd for Leaf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

fn set(path: &Path, file: &str, value: &str, good: impl Fn(&str) -> bool) -> io::Result<()> {
    let file = path.join(file);
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", file.display()));
    fs::write(&file, value).map_err(named)?;
    let found = fs::read_to_string(&file).map_err(named)?;
    if good(found.trim_end()) {
        return Ok(());
    }
    Err(io::Error::other(format!("{}: expected {value}, found {}", file.display(), found.trim_end())))
}

fn ignore_absent(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[cfg(test)]
impl Leaf {
    /// Any directory, with whatever files a test puts there.
    pub(super) fn of_directory(path: &Path) -> Self {
        Self { path: path.to_owned(), directory: File::open(path).unwrap() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_is_charged_with_is_one_number() {
        let dir = tempfile::tempdir().unwrap();
        let leaf = Leaf::of_directory(dir.path());
        assert_eq!(leaf.memory_current(), None);
        fs::write(dir.path().join("memory.current"), "4096000\n").unwrap();
        assert_eq!(leaf.memory_current(), Some(4_096_000));
        fs::write(dir.path().join("memory.current"), "max\n").unwrap();
        assert_eq!(leaf.memory_current(), None);
    }

    #[test]
    fn kills_for_memory_are_read() {
        let events = "low 0\nhigh 0\nmax 71\noom 2\noom_kill 3\noom_group_kill 1\n";
        assert_eq!(oom_kills(events), 3);
        assert_eq!(oom_kills("oom_group_kill 1\n"), 0);
        assert_eq!(oom_kills("oom_kill x\n"), 0);
    }
}
