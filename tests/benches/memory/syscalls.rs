//! The system calls of a boot, counted from outside: QEMU logs the registers each time the guest's processor enters the kernel's
//! one entry point for them (`-d exec,cpu -dfilter`). Nothing in the image is changed; `nokaslr` on the command line keeps the entry where
//! the kernel file has it. Every process is counted, whatever it is.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use anyhow::{Context as _, bail};
use casemate_measure::status::Stage;

use crate::machine::boot;

/// How many kinds of calls are printed for PID 1.
const SHOWN: usize = 12;
/// `entry_SYSCALL_64` begins so: endbr64, swapgs, mov %rsp,%gs:… (Linux `arch/x86/entry/entry_64.S`).
const ENTRY: &[u8] = &[0xf3, 0x0f, 0x1e, 0xfa, 0x0f, 0x01, 0xf8, 0x65, 0x48, 0x89];
/// The bits of CR3 that say which page table, without the process context and the user half (Linux `arch/x86/mm/tlb.c`).
const PAGE_TABLE: u64 = !0x1fff;

pub(crate) fn count(image: &Path) -> anyhow::Result<()> {
    let entry = entry(&fs::read(image.join("bzImage")).context("bzImage")?)?;
    let cmdline = fs::read_to_string(image.join("cmdline")).context("cmdline")?;
    let temp = tempfile::Builder::new().prefix("casemate-bench.").tempdir()?;
    let log = temp.path().join("syscalls");
    // QEMU takes the last of two -append.
    let extra =
        format!("-append '{cmdline} nokaslr' -d exec,cpu -dfilter {entry:#x}+0x1 -D {}", log.display());
    let ready = format!("\"stage\":\"{}\"", Stage::Ready.words());
    // Its log up to the moment at which the console says so, give or take what is still in QEMU's buffer.
    let length = boot(image, &extra, |console| {
        let ready = console.lines().any(|line| line.contains("casemate: status ") && line.contains(&ready));
        ready.then(|| fs::metadata(&log).map(|file| file.len()).unwrap_or(0))
    })?;
    let calls = calls(&log, length)?;

    // The kernel starts nothing before PID 1, so the first page table is its.
    let first = calls.first().context("QEMU logged no system call")?.0;
    let mut spaces: BTreeMap<u64, usize> = BTreeMap::new();
    let mut of_init: BTreeMap<u64, usize> = BTreeMap::new();
    for (space, number) in &calls {
        *spaces.entry(*space).or_default() += 1;
        if *space == first {
            *of_init.entry(*number).or_default() += 1;
        }
    }
    let init: usize = of_init.values().sum();
    println!(
        "syscalls until=ready all={} pid1={init} others={} address_spaces={}",
        calls.len(),
        calls.len() - init,
        spaces.len()
    );
    let names = names();
    let mut sorted: Vec<(u64, usize)> = of_init.into_iter().collect();
    sorted.sort_by_key(|(number, count)| (std::cmp::Reverse(*count), *number));
    for (number, count) in sorted.iter().take(SHOWN) {
        let name = names.get(number).cloned().unwrap_or_else(|| number.to_string());
        println!("syscalls pid=1 name={name} count={count}");
    }
    Ok(())
}

/// Page table and number of each call, in order.
fn calls(log: &Path, length: u64) -> anyhow::Result<Vec<(u64, u64)>> {
    use std::io::Read as _;
    let mut calls = Vec::new();
    let mut number = None;
    for line in BufReader::new(File::open(log)?.take(length)).lines() {
        let line = line?;
        // What starts with CR0 follows what starts with RAX in every dump (QEMU `target/i386/cpu-dump.c`).
        if let Some(rax) = value(&line, "RAX=") {
            number = Some(rax);
        } else if let Some(cr3) = value(&line, "CR3=") {
            calls.extend(number.take().map(|number| (cr3 & PAGE_TABLE, number)));
        }
    }
    Ok(calls)
}

fn value(line: &str, name: &str) -> Option<u64> {
    let after = line.split(name).nth(1)?;
    u64::from_str_radix(after.split(' ').next()?, 16).ok()
}

/// Where the entry lies, from the kernel inside a bzImage (Linux `Documentation/arch/x86/boot.rst`; ELF-64).
fn entry(kernel: &[u8]) -> anyhow::Result<u64> {
    let payload = payload(kernel).context("bzImage: no payload where its header says")?;
    let elf = match zstd::stream::decode_all(payload) {
        Ok(elf) => elf,
        Err(error) => bail!("bzImage: expected a payload in zstd: {error}"),
    };
    let places: Vec<usize> =
        elf.windows(ENTRY.len()).enumerate().filter(|(_, bytes)| *bytes == ENTRY).map(|(at, _)| at).collect();
    let [place] = places.as_slice() else {
        bail!("kernel: expected the system call entry once, found it {} times", places.len());
    };
    address(&elf, u64::try_from(*place)?).context("kernel: the system call entry is in no segment")
}

fn payload(kernel: &[u8]) -> Option<&[u8]> {
    let u32_at = |at: usize| Some(u32::from_le_bytes(kernel.get(at..)?.first_chunk().copied()?));
    let setup = (usize::from(*kernel.get(0x1f1)?) + 1) * 512;
    let start = setup + usize::try_from(u32_at(0x248)?).ok()?;
    // The kernel's build appends the uncompressed length, 4 bytes.
    let length = usize::try_from(u32_at(0x24c)?).ok()?.checked_sub(4)?;
    kernel.get(start..start + length)
}

fn address(elf: &[u8], place: u64) -> Option<u64> {
    let u64_at = |at: usize| Some(u64::from_le_bytes(elf.get(at..)?.first_chunk().copied()?));
    let headers = usize::try_from(u64_at(32)?).ok()?;
    let count = u16::from_le_bytes(elf.get(56..)?.first_chunk().copied()?);
    (0..usize::from(count)).find_map(|index| {
        let header = headers + 56 * index;
        let (offset, virtual_address, size) =
            (u64_at(header + 8)?, u64_at(header + 16)?, u64_at(header + 32)?);
        let inside = place.checked_sub(offset).filter(|inside| *inside < size)?;
        virtual_address.checked_add(inside)
    })
}

/// The calls' names, where the C library's headers are installed.
fn names() -> BTreeMap<u64, String> {
    let header = fs::read_to_string("/usr/include/x86_64-linux-gnu/asm/unistd_64.h").unwrap_or_default();
    let pairs = header.lines().filter_map(|line| line.strip_prefix("#define __NR_")?.split_once(' '));
    pairs.filter_map(|(name, number)| Some((number.trim().parse().ok()?, name.to_owned()))).collect()
}
