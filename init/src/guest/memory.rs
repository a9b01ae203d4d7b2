//! How much memory processes keep, for the status document.

use std::fs;

use crate::status::Memory;

/// What one process keeps; `None` if it has gone.
pub(super) fn of(pid: i32) -> Option<Memory> {
    parse(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?)
}

/// What a cgroup is charged with, in the same form: it is charged with each page once, whoever maps it.
pub(super) const fn charged(bytes: u64) -> Memory {
    let kb = bytes / 1024;
    Memory { rss_kb: kb, pss_kb: kb }
}

/// `NAME: NUMBER kB` lines after a header (Linux `Documentation/filesystems/proc.rst`, smaps_rollup).
fn parse(rollup: &str) -> Option<Memory> {
    let number = |name: &str| {
        let value = rollup.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        value.trim().strip_suffix(" kB")?.parse().ok()
    };
    Some(Memory { rss_kb: number("Rss")?, pss_kb: number("Pss")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_are_read_and_nothing_else() {
        let rollup = "55d0c0000000-7ffd00000000 ---p 00000000 00:00 0  [rollup]\n\
                      Rss:                3412 kB\nPss:                1230 kB\nPss_Dirty:           700 kB\n";
        assert_eq!(parse(rollup), Some(Memory { rss_kb: 3412, pss_kb: 1230 }));
        assert_eq!(parse("Rss: 3 kB\nPss_Dirty: 4 kB\n"), None);
        assert_eq!(parse("Rss: 3 pages\nPss: 4 kB\n"), None);
    }

    #[test]
    fn this_process_keeps_something_and_one_that_has_gone_nothing() {
        let own = i32::try_from(std::process::id()).unwrap();
        let one = of(own).unwrap();
        assert!(one.rss_kb >= one.pss_kb && one.pss_kb > 0, "{one:?}");
        // Pids end below 2^22 (Linux `PID_MAX_LIMIT`).
        let gone = 1 << 22;
        assert_eq!(of(gone), None);
    }
}
