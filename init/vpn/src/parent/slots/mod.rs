//! What survives a restart of the process: a memfd of fixed size that its parent keeps, sealed against resizing and new seals.
//!
//! Two slots are written in turn. Each has a header (magic, generation, length, SHA-256 over these and the content) before its
//! content, so that a write that was cut short leaves the other slot as the newest good one. Whoever reads it takes it for hostile
//! input: the digest is against accidents only.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use sha2::{Digest as _, Sha256};

/// The most bytes of content.
pub const MAX_CONTENT: usize = 4 << 20;
const MAGIC: [u8; 8] = *b"cmvpnst1";
const HEADER: usize = 8 + 8 + 8 + 32;
/// A whole number of pages, so that no page belongs to both slots.
const SLOT: u64 = 5 << 20;
const SLOTS: [u64; 2] = [0, SLOT];
/// The whole memfd. Pages that were never written take no memory.
const SIZE: u64 = 2 * SLOT;

/// Makes an empty one.
///
/// # Errors
/// What the kernel says.
pub fn create() -> io::Result<OwnedFd> {
    let file =
        File::from(memfd_create("casemate-vpn-state", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
    file.set_len(SIZE)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}

/// The two slots.
#[derive(Debug)]
pub struct Slots(File);

struct Slot {
    generation: u64,
    content: Vec<u8>,
}

impl Slots {
    /// Those of this descriptor.
    ///
    /// # Errors
    /// If it has another size.
    pub fn new(memory: OwnedFd) -> io::Result<Self> {
        let file = File::from(memory);
        match file.metadata()?.len() {
            SIZE => Ok(Self(file)),
            found => Err(io::Error::other(format!("state: expected {SIZE} bytes, found {found}"))),
        }
    }

    /// The newest content that is whole; `None`: there is none.
    pub fn read(&self) -> Option<Vec<u8>> {
        let [first, second] = SLOTS.map(|start| self.slot(start));
        let newest = match (first, second) {
            (Some(first), Some(second)) if second.generation > first.generation => Some(second),
            (first @ Some(_), _) => first,
            (None, second) => second,
        };
        newest.map(|slot| slot.content)
    }

    /// Writes content into the slot that does not hold the newest. Only one process may write at a time.
    ///
    /// # Errors
    /// More than [`MAX_CONTENT`] bytes, and what the kernel says.
    pub fn write(&self, content: &[u8]) -> io::Result<()> {
        if content.len() > MAX_CONTENT {
            let found = content.len();
            return Err(io::Error::other(format!(
                "state: expected at most {MAX_CONTENT} bytes, found {found}"
            )));
        }
        let [first, second] = SLOTS.map(|start| self.slot(start).map(|slot| slot.generation));
        let start = if first.is_some() && first >= second { SLOT } else { 0 };
        // Hostile content may claim the last generation: then both slots start anew.
        let generation = match first.max(second).unwrap_or(0).checked_add(1) {
            Some(generation) => generation,
            None => {
                SLOTS.iter().try_for_each(|start| self.0.write_all_at(&[0; HEADER], *start))?;
                1
            }
        };
        let length = u64::try_from(content.len()).map_err(io::Error::other)?;
        // The content before its header: a cut leaves a header that does not fit.
        self.0.write_all_at(content, start.saturating_add(header_length()))?;
        let mut header = Vec::with_capacity(HEADER);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&generation.to_le_bytes());
        header.extend_from_slice(&length.to_le_bytes());
        header.extend_from_slice(&digest(generation, length, content));
        self.0.write_all_at(&header, start)
    }

    fn slot(&self, start: u64) -> Option<Slot> {
        let mut header = [0; HEADER];
        self.0.read_exact_at(&mut header, start).ok()?;
        let (magic, rest) = header.split_first_chunk::<8>()?;
        let (generation, rest) = rest.split_first_chunk::<8>()?;
        let (length, expected) = rest.split_first_chunk::<8>()?;
        let (generation, length) = (u64::from_le_bytes(*generation), u64::from_le_bytes(*length));
        let size = usize::try_from(length).ok().filter(|size| *size <= MAX_CONTENT)?;
        if *magic != MAGIC {
            return None;
        }
        let mut content = vec![0; size];
        self.0.read_exact_at(&mut content, start.checked_add(header_length())?).ok()?;
        (digest(generation, length, &content).as_slice() == expected).then_some(Slot { generation, content })
    }
}

const fn header_length() -> u64 {
    HEADER as u64
}

fn digest(generation: u64, length: u64, content: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(MAGIC);
    hash.update(generation.to_le_bytes());
    hash.update(length.to_le_bytes());
    hash.update(content);
    hash.finalize().into()
}

#[cfg(test)]
mod tests;
