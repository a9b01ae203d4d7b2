//! Giving back memory that a process does not use any more.

use std::io;

use nix::unistd::{SysconfVar, sysconf};

/// Unmaps this program's code and constants, which come back page by page as they are used again, and returns the free
/// parts of the heap to the kernel. Returns how many bytes of code and constants it let go.
///
/// Booting, reading a document or making a certificate runs through code that an idle machine never sees again. Its pages
/// lie in the initramfs whoever maps them; what is saved is their share of each process's resident memory and page tables.
///
/// # Errors
/// What the kernel says.
pub fn give_back_pages() -> io::Result<u64> {
    // SAFETY: it takes no pointers, and the allocator is in use by nobody's half-done work: it takes its own locks.
    unsafe { libc::malloc_trim(0) };
    let page = sysconf(SysconfVar::PAGE_SIZE)?.and_then(|size| usize::try_from(size).ok()).unwrap_or(4096);
    let mut segments: Vec<(usize, usize)> = Vec::new();
    // SAFETY: the callback gets the vector it was given, which outlives the call and is used by nobody else meanwhile.
    unsafe { libc::dl_iterate_phdr(Some(unwritten), (&raw mut segments).cast()) };
    let mut bytes = 0;
    for (start, length) in segments {
        let first = start / page * page;
        let length = start.saturating_add(length).next_multiple_of(page).saturating_sub(first);
        // SAFETY: the range is a loaded segment of this program that was mapped without write permission, so its pages are
        // those of its file: dropped, they are read from there again. Relocations (also those made read-only afterwards)
        // and data lie in the writable segment, which begins on a page of its own.
        let result =
            unsafe { libc::madvise(std::ptr::without_provenance_mut(first), length, libc::MADV_DONTNEED) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        bytes += u64::try_from(length).unwrap_or(0);
    }
    Ok(bytes)
}

/// The first object that is named is the program itself (dl_iterate_phdr(3)): its segments that nothing can have written to.
unsafe extern "C" fn unwritten(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    segments: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the C library gives a valid description of a loaded object, and our own vector.
    let (info, segments) = unsafe { (&*info, &mut *segments.cast::<Vec<(usize, usize)>>()) };
    // SAFETY: the object's program headers are mapped for as long as the program runs.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    let loaded = headers.iter().filter(|h| h.p_type == libc::PT_LOAD && h.p_flags & libc::PF_W == 0);
    segments.extend(loaded.filter_map(|header| {
        let start = info.dlpi_addr.checked_add(header.p_vaddr)?;
        Some((usize::try_from(start).ok()?, usize::try_from(header.p_memsz).ok()?))
    }));
    // Anything but zero ends the walk: shared objects, where there are any, are not ours.
    1
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// KiB of resident memory that a file is behind.
    fn from_files() -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
    }

    #[test]
    fn code_is_let_go_and_comes_back() {
        let table: Vec<String> = (0..1000).map(|n| format!("{n}")).collect();
        let before = from_files();
        let bytes = give_back_pages().unwrap();
        let after = from_files();
        assert!(bytes > 1 << 20, "this test binary has more code than {bytes} bytes");
        assert!(after < before, "{before} KiB before, {after} KiB after");
        // Code, constants, heap and relocated pointers (a vtable) are what they were.
        let lines: Vec<Box<dyn std::fmt::Display>> =
            table.iter().map(|text| Box::new(text.clone()) as Box<dyn std::fmt::Display>).collect();
        assert!(lines.iter().enumerate().all(|(n, line)| line.to_string() == n.to_string()));
    }
}
