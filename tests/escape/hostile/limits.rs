//! What there is only so much of. Each of these takes all of it, once.

use std::fs;
use std::io::Write as _;

use libc::{EAGAIN, EMFILE, ENOSPC};

use crate::case::{Case, case};
use crate::files::errno;
use crate::sys::{self, call};

/// The document's `pids_max` and the size of its /tmp, bytes.
const PIDS_MAX: usize = 64;
const TMP: usize = 1 << 20;
/// PID 1's `HARD_FILES` (init/src/guest/mod.rs).
const FILES: usize = 65_536;

pub(crate) const CASES: &[Case] = &[
    case("fork-bomb", &[EAGAIN], fork_bomb),
    case("fill-tmpfs", &[ENOSPC], fill_tmpfs),
    // ENFILE would mean that nobody else could open one, either.
    case("descriptors", &[EMFILE], descriptors),
];

fn fork_bomb() -> Result<String, i32> {
    let mut children = Vec::new();
    let refused = loop {
        if children.len() > PIDS_MAX {
            break Ok(format!("{} processes", children.len()));
        }
        match sys::fork() {
            Ok(0) => loop {
                sys::pause();
            },
            Ok(pid) => children.push(pid),
            Err(errno) => break Err(errno),
        }
    };
    for pid in children {
        _ = sys::kill(pid, libc::SIGKILL);
        _ = sys::wait(pid);
    }
    refused
}

fn fill_tmpfs() -> Result<String, i32> {
    let mut file = fs::File::create("/tmp/full").map_err(errno)?;
    let mut written = 0;
    let refused = loop {
        match file.write(&[0; 16 << 10]) {
            Ok(length) => written += length,
            Err(error) => break Err(errno(error)),
        }
        if written > TMP {
            break Ok(format!("{written} bytes"));
        }
    };
    drop(fs::remove_file("/tmp/full"));
    refused
}

fn descriptors() -> Result<String, i32> {
    let limit: Vec<u8> = [FILES as u64; 2].iter().flat_map(|limit| limit.to_ne_bytes()).collect();
    call!(libc::SYS_setrlimit, i64::from(libc::RLIMIT_NOFILE), limit.as_slice())?;
    for _ in 0..FILES {
        call!(libc::SYS_open, c"/dev/null", libc::O_RDONLY)?;
    }
    Ok(format!("{FILES} and more"))
}

/// Never comes back where memory has a limit.
pub(crate) fn eat() {
    println!("the glutton eats");
    let mut eaten: Vec<Vec<u8>> = Vec::new();
    while eaten.len() < 64 {
        eaten.push(vec![1; 1 << 20]);
    }
    println!("the glutton ESCAPED: it has eaten {} MiB", eaten.len());
    loop {
        sys::pause();
    }
}
