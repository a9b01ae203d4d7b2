//! MRTD: what the VMM put into a trust domain before its first instruction, page by page (Intel TDX module specification,
//! `TDH.MEM.PAGE.ADD` and `TDH.MR.EXTEND`).
//!
//! Each page is one record of its address, and, where a section asks for it, 16 records of an address and 256 bytes.
//! All are multiples of SHA-384's block, so the firmware is hashed where it lies, in one pass.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha384};

use super::tdvf::{PAGE, Section, Tdvf};
use crate::register::Register;

/// In which order a VMM adds and measures the pages of a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PageOrder {
    /// Each page is added, then measured, then the next (Linux `KVM_TDX_INIT_MEM_REGION`; QEMU from 9.0 on).
    SinglePass,
    /// All pages of a section are added, then all are measured (QEMU 8 with Canonical's patches).
    TwoPass,
}

impl PageOrder {
    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::SinglePass => "each page added, then measured",
            Self::TwoPass => "all pages of a section added, then all measured",
        }
    }
}

/// MRTD of a firmware. The work is bounded by the firmware and [`super::tdvf::MAX_FREE_BYTES`].
pub fn mrtd(firmware: &Tdvf<'_>, order: PageOrder) -> Register {
    let mut stream = Stream { hash: Sha384::new(), record: [0; RECORD] };
    for section in firmware.sections() {
        match order {
            PageOrder::SinglePass => {
                for page in pages(section) {
                    stream.add(section, page);
                    stream.extend(section, page);
                }
            }
            PageOrder::TwoPass => {
                pages(section).for_each(|page| stream.add(section, page));
                pages(section).for_each(|page| stream.extend(section, page));
            }
        }
    }
    Register(stream.hash.finalize().into())
}

/// The offsets of a section's pages.
fn pages(section: &Section<'_>) -> impl Iterator<Item = u64> {
    (0..section.size).step_by(PAGE)
}

struct Stream {
    hash: Sha384,
    /// The record being hashed: what never changes in it is written once a page.
    record: [u8; RECORD],
}

impl Stream {
    fn add(&mut self, section: &Section<'_>, page: u64) {
        if !section.augment {
            self.name(b"MEM.PAGE.ADD");
            self.record(section.address.saturating_add(page));
        }
    }

    fn extend(&mut self, section: &Section<'_>, page: u64) {
        if !section.extend {
            return;
        }
        let data = usize::try_from(page).ok().and_then(|page| section.data.get(page..)).unwrap_or_default();
        self.name(b"MR.EXTEND");
        let mut address = section.address.saturating_add(page);
        for chunk in data.chunks(CHUNK).take(PAGE / CHUNK) {
            self.record(address);
            self.hash.update(chunk);
            address = address.saturating_add(CHUNK as u64);
        }
    }

    fn name(&mut self, name: &[u8]) {
        self.record = [0; RECORD];
        self.record.iter_mut().zip(name).for_each(|(to, from)| *to = *from);
    }

    fn record(&mut self, address: u64) {
        let field = self.record.iter_mut().skip(ADDRESS);
        field.zip(address.to_le_bytes()).for_each(|(to, from)| *to = from);
        self.hash.update(self.record);
    }
}

/// A record: its name at 0, an address, and zeros.
const RECORD: usize = 128;
/// Where a record's address lies.
const ADDRESS: usize = 16;
/// What `TDH.MR.EXTEND` measures at once.
const CHUNK: usize = 256;

#[cfg(test)]
mod tests;
