//! The regions of a kernel and of a unified kernel image.

use std::ops::Range;

use super::super::bzimage::{BzImage, BzImageError, KernelSeen, Loading};
use super::super::overlay::View;
use super::super::uki::{Uki, UkiError};
use super::{Fields, Part, Region, parts};

/// A bzImage in regions, in order and without holes. Its setup header is taken to be measured: in headers or a section, as
/// in every kernel.
///
/// # Errors
/// If it is no kernel that the firmware loads.
pub fn kernel(file: &[u8]) -> Result<Vec<Part>, BzImageError> {
    let loading = Loading { memory: 0, initrd: None, cmdline: "" };
    BzImage::parse(file)?.pe(KernelSeen::AsFile, &loading)?;
    let layout = Layout::of(file);
    let mut claims = layout.fields();
    claims.extend(QEMU_WRITES.map(|range| (range, Region::KernelWritten)));
    claims.push((LOADFLAGS..LOADFLAGS + 1, Region::KernelLoadFlags));
    claims.push((SETUP_HEADER, Region::KernelSetupHeader));
    claims.push((0..layout.size_of_headers, Region::KernelHeaders));
    claims.extend(layout.sections().map(|section| (section.file(), Region::KernelSection)));
    claims.extend(layout.behind());
    Ok(parts(file.len(), &claims, Region::PeGap))
}

/// A unified kernel image in regions, in order and without holes.
///
/// # Errors
/// If it is none whose measurements are known.
pub fn uki(file: &[u8]) -> Result<Vec<Part>, UkiError> {
    Uki::parse(View::from(file))?;
    let layout = Layout::of(file);
    let mut claims = layout.fields();
    claims.push((DOS_WRITTEN, Region::UkiWritten));
    claims.push((0..layout.size_of_headers, Region::UkiHeaders));
    let mut found: Vec<&[u8]> = Vec::new();
    for section in layout.sections() {
        let name = section.name();
        // The stub takes the first of each name.
        let region = if found.contains(&name) { Region::UkiOther } else { measured(name) };
        found.push(name);
        claims.push((section.memory(), region));
        // What memory does not have of it.
        claims.push((section.file(), Region::UkiOther));
    }
    claims.extend(layout.behind());
    Ok(parts(file.len(), &claims, Region::PeGap))
}

fn measured(name: &[u8]) -> Region {
    match name {
        b".linux" => Region::UkiKernel,
        b".cmdline" => Region::UkiCommandLine,
        b".pcrsig" => Region::UkiSignature,
        b".sdmagic" => Region::UkiStubVersion,
        _ if MEASURED.contains(&name) => Region::UkiMeasured,
        _ => Region::UkiOther,
    }
}

/// What the headers of a PE image say of where things are.
struct Layout<'f> {
    file: Fields<'f>,
    check_sum: usize,
    /// The certificate table's entry, if there is one, and its two fields.
    certificates: Option<(usize, usize)>,
    size_of_headers: usize,
    table: usize,
    rows: usize,
}

struct Section<'f> {
    row: &'f [u8],
}

impl<'f> Layout<'f> {
    fn of(bytes: &'f [u8]) -> Self {
        let file = Fields(bytes);
        let header = file.u32(0x3c);
        let optional = header.saturating_add(24);
        let at = |offset: usize| optional.saturating_add(offset);
        let directories = if file.u16(optional) == PE32 { 96 } else { 112 };
        let entry = at(directories).saturating_add(32);
        let has_entry = file.u32(at(directories).saturating_sub(4)) > 4;
        Self {
            file,
            check_sum: at(64),
            certificates: has_entry.then(|| (entry, file.u32(entry.saturating_add(4)))),
            size_of_headers: file.u32(at(60)),
            table: at(file.u16(header.saturating_add(20))),
            rows: file.u16(header.saturating_add(6)),
        }
    }

    fn sections(&self) -> impl Iterator<Item = Section<'f>> {
        let table = self.file.0.get(self.table..).unwrap_or_default();
        table.chunks_exact(40).take(self.rows).map(|row| Section { row })
    }

    /// What is left out of the digest, or decides what else is.
    fn fields(&self) -> Vec<(Range<usize>, Region)> {
        let four = |at: usize, region| (at..at.saturating_add(4), region);
        let mut claims = vec![four(self.check_sum, Region::PeCheckSum)];
        if let Some((entry, _)) = self.certificates {
            claims.push(four(entry, Region::PeCertificatePlace));
            claims.push(four(entry.saturating_add(4), Region::PeCertificateSize));
        }
        claims
    }

    /// What follows as many bytes as headers and sections have: measured up to the certificates, which are last.
    fn behind(&self) -> [(Range<usize>, Region); 2] {
        let length = self.file.0.len();
        let sizes = self.sections().map(|section| section.file().len());
        let hashed = sizes.fold(self.size_of_headers, usize::saturating_add);
        let table = self.certificates.map_or(0, |(_, size)| size);
        let certificates = length.saturating_sub(table).max(hashed);
        [(hashed..certificates, Region::PeTrailing), (certificates..length, Region::PeCertificates)]
    }
}

impl<'f> Section<'f> {
    fn name(&self) -> &'f [u8] {
        let name = self.row.get(..8).unwrap_or_default();
        name.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// Its bytes in the file.
    fn file(&self) -> Range<usize> {
        self.range(16)
    }

    /// Those of them that are in memory, too.
    fn memory(&self) -> Range<usize> {
        self.range(8)
    }

    fn range(&self, size: usize) -> Range<usize> {
        let fields = Fields(self.row);
        let (size, start) = (fields.u32(size).min(fields.u32(16)), fields.u32(20));
        start..start.saturating_add(size)
    }
}

/// `Magic` of a PE32 (Microsoft, "PE Format", as all offsets above).
const PE32: usize = 0x10b;
/// `struct setup_header` up to `handover_offset` (Linux `Documentation/arch/x86/boot.rst`).
const SETUP_HEADER: Range<usize> = 0x1f1..0x268;
/// `loadflags`, of which QEMU sets one bit.
const LOADFLAGS: usize = 0x211;
/// `type_of_loader`; `ramdisk_image` and `ramdisk_size`; `heap_end_ptr`; `cmd_line_ptr` (QEMU `hw/i386/x86-common.c`).
const QEMU_WRITES: [Range<usize>; 4] = [0x210..0x211, 0x218..0x220, 0x224..0x226, 0x228..0x22c];
/// What QEMU before 10.0 writes into what is no bzImage: the command line's magic and place.
const DOS_WRITTEN: Range<usize> = 0x20..0x24;
/// What systemd-stub measures, besides those that have a region of their own (systemd `src/fundamental/uki.c`).
const MEASURED: [&[u8]; 7] = [b".osrel", b".initrd", b".ucode", b".splash", b".uname", b".sbat", b".pcrpkey"];
