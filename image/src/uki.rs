//! A unified kernel image: systemd-stub with kernel, command line, initramfs and os-release as sections of one PE file (UAPI
//! group, "Unified Kernel Image"; fields are those of Microsoft's "PE Format").
//!
//! The stub comes from its package as it is. Rows are added to its section table, for which its headers have room, and the
//! content goes behind its own. Nothing in the file depends on anything but the parts.

use casemate_measure::image::Flavor;
use casemate_measure::tdx::overlay::View;
use casemate_measure::tdx::pe::Pe;
use casemate_measure::tdx::uki::Uki;

use crate::error::{ImageError, Result};

/// Its name in the image directory.
pub(crate) const FILE: &str = "casemate.efi";

/// What goes into it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts<'a> {
    /// The stub.
    pub(crate) stub: &'a [u8],
    /// The os-release file.
    pub(crate) os_release: &'a str,
    /// The command line.
    pub(crate) cmdline: &'a str,
    /// The kernel's release.
    pub(crate) release: &'a str,
    /// The initramfs.
    pub(crate) initramfs: &'a [u8],
    /// The kernel.
    pub(crate) kernel: &'a [u8],
}

/// What the image says of itself (os-release(5)).
pub(crate) fn os_release(flavor: Flavor) -> String {
    let variant = match flavor {
        Flavor::Dev => "dev",
        Flavor::Prod => "prod",
    };
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "NAME=Casemate\nID=casemate\nVERSION_ID={version}\nPRETTY_NAME=\"Casemate {version}\"\nVARIANT_ID={variant}\n"
    )
}

impl Parts<'_> {
    /// The file.
    ///
    /// # Errors
    /// If the stub or the kernel is no PE image that the firmware loads, if the stub is one whose measurements are not
    /// known, or if something does not fit.
    pub(crate) fn assemble(&self) -> Result<Vec<u8>> {
        let mut image = Image::of(self.stub)?;
        // Firmware that insists on it refuses to load a kernel that may be executed only where it is writable.
        let kernel = Pe::parse(View::from(self.kernel)).map_err(|error| refused("kernel", &error))?;
        if kernel.dll_characteristics() & NX_COMPAT == 0 {
            image.clear(image.optional.saturating_add(70), NX_COMPAT)?;
        }
        image.add(".osrel", self.os_release.as_bytes(), INITIALIZED_DATA)?;
        image.add(".cmdline", self.cmdline.as_bytes(), INITIALIZED_DATA)?;
        image.add(".uname", self.release.as_bytes(), INITIALIZED_DATA)?;
        image.add(".initrd", self.initramfs, INITIALIZED_DATA)?;
        image.add(".linux", self.kernel, CODE)?;
        let file = image.finish()?;
        Uki::parse(View::from(file.as_slice())).map_err(|error| refused(FILE, &error))?;
        Ok(file)
    }
}

/// The file in the making.
struct Image {
    bytes: Vec<u8>,
    /// Where the optional header begins.
    optional: usize,
    /// Where the next row of the section table goes, and how far the headers reach.
    row: usize,
    size_of_headers: usize,
    file_alignment: usize,
    section_alignment: usize,
    /// The next free address.
    address: usize,
}

impl Image {
    /// The stub, with room for more.
    fn of(stub: &[u8]) -> Result<Self> {
        let pe = Pe::parse(View::from(stub)).map_err(|error| refused(STUB, &error))?;
        let header = word(stub, 0x3c)?;
        let optional = header.saturating_add(24);
        let field = |offset: usize| word(stub, optional.saturating_add(offset));
        let size_of_optional = word(stub, header.saturating_add(20))? & 0xffff;
        let rows = pe.sections().len().saturating_mul(ROW);
        let end = |size: u32, address: u32| u64::from(address).saturating_add(size.into());
        let addresses =
            pe.sections().iter().map(|section| end(section.virtual_size, section.virtual_address));
        let mut image = Self {
            bytes: stub.to_vec(),
            optional,
            row: optional.saturating_add(size_of_optional).saturating_add(rows),
            size_of_headers: field(60)?,
            file_alignment: field(36)?,
            section_alignment: field(32)?,
            address: usize::try_from(addresses.max().unwrap_or(0)).unwrap_or(usize::MAX),
        };
        for (name, alignment) in
            [("FileAlignment", image.file_alignment), ("SectionAlignment", image.section_alignment)]
        {
            if !alignment.is_power_of_two() || alignment > 0x1_0000 {
                return Err(ImageError::form(
                    STUB,
                    name,
                    "a power of two up to 65536",
                    alignment.to_string(),
                ));
            }
        }
        // What is not in a section would end up between sections.
        for (field, offset) in [("symbol table", header.saturating_add(12)), ("signature", optional + 148)] {
            if word(stub, offset)? != 0 {
                return Err(ImageError::form(STUB, field, "none", "one"));
            }
        }
        // TimeDateStamp, and a CheckSum that nobody reads.
        image.put(header.saturating_add(8), 0)?;
        image.put(optional.saturating_add(64), 0)?;
        Ok(image)
    }

    /// Appends a section.
    fn add(&mut self, name: &str, content: &[u8], characteristics: u32) -> Result<()> {
        if self.row.saturating_add(ROW) > self.size_of_headers {
            let found = format!("{} bytes of headers", self.size_of_headers);
            return Err(ImageError::form(STUB, "section table", format!("room for {name}"), found));
        }
        let start = self.bytes.len().next_multiple_of(self.file_alignment);
        let length = content.len().next_multiple_of(self.file_alignment);
        let address = self.address.next_multiple_of(self.section_alignment);
        self.bytes.resize(start, 0);
        self.bytes.extend_from_slice(content);
        self.bytes.resize(start.saturating_add(length), 0);

        let (row, count) = (self.row, self.optional.saturating_sub(18));
        let place = self.bytes.get_mut(row..row.saturating_add(ROW)).unwrap_or_default();
        place.fill(0);
        place.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
        for (offset, value) in [(8, content.len()), (12, address), (16, length), (20, start)] {
            self.put(row.saturating_add(offset), value)?;
        }
        self.put(row.saturating_add(36), characteristics as usize)?;
        self.row = row.saturating_add(ROW);
        self.address = address.saturating_add(content.len());
        // NumberOfSections, with the lower half of TimeDateStamp, which is zero.
        let sections = word(&self.bytes, count)? & 0xffff;
        self.put(count, sections.saturating_add(1))?;
        let sum = if characteristics == CODE { 4 } else { 8 };
        let size = word(&self.bytes, self.optional.saturating_add(sum))?.saturating_add(content.len());
        self.put(self.optional.saturating_add(sum), size)
    }

    fn finish(mut self) -> Result<Vec<u8>> {
        let size_of_image = self.address.next_multiple_of(self.section_alignment);
        self.put(self.optional.saturating_add(56), size_of_image)?;
        Ok(self.bytes)
    }

    fn clear(&mut self, offset: usize, bit: u16) -> Result<()> {
        let value = word(&self.bytes, offset)?;
        self.put(offset, value & !usize::from(bit))
    }

    /// A field of four bytes.
    fn put(&mut self, offset: usize, value: usize) -> Result<()> {
        let value = u32::try_from(value).map_err(|_| ImageError::TooLarge {
            what: FILE.into(),
            limit: u32::MAX.into(),
            unit: "bytes",
        })?;
        // `of` has read the headers there.
        if let Some(place) = self.bytes.get_mut(offset..).and_then(<[u8]>::first_chunk_mut) {
            *place = value.to_le_bytes();
        }
        Ok(())
    }
}

fn word(bytes: &[u8], offset: usize) -> Result<usize> {
    bytes
        .get(offset..)
        .and_then(<[u8]>::first_chunk)
        .map(|word| u32::from_le_bytes(*word) as usize)
        .ok_or_else(|| ImageError::form(STUB, "headers", "a PE image", "fewer bytes"))
}

fn refused(file: &str, error: &dyn std::error::Error) -> ImageError {
    ImageError::form(file, "unified kernel image", "parts that the firmware loads", error.to_string())
}

/// For errors.
const STUB: &str = "systemd-stub";
/// A row of the section table.
const ROW: usize = 40;
/// `IMAGE_DLLCHARACTERISTICS_NX_COMPAT`.
const NX_COMPAT: u16 = 0x0100;
/// `IMAGE_SCN_MEM_READ` with `IMAGE_SCN_CNT_INITIALIZED_DATA` or `IMAGE_SCN_CNT_CODE`.
const INITIALIZED_DATA: u32 = 0x4000_0040;
const CODE: u32 = 0x4000_0020;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
