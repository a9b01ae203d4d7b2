//! A Linux kernel for `-kernel`, and what QEMU writes into its setup header before the firmware sees it.
//!
//! Fields are those of `Documentation/arch/x86/boot.rst`; what QEMU writes is in `x86_load_linux`
//! (`hw/i386/x86-common.c`, before 9.0 `hw/i386/x86.c`). dstack's verifier has the same in `dstack-mr/src/kernel.rs`.

use serde::Serialize;

use super::overlay::{Overlay, View};
use super::pe::{Pe, PeError};

/// A bzImage.
#[derive(Clone, Copy, Debug)]
pub struct BzImage<'a> {
    file: &'a [u8],
    header: Header,
}

/// What the firmware is given of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KernelSeen {
    /// The file.
    AsFile,
    /// The file with a setup header that QEMU has filled in.
    Patched,
}

/// What decides about the bytes that QEMU writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loading<'a> {
    /// Memory of the machine in bytes.
    pub memory: u64,
    /// `-initrd`: its length in bytes, if there is one.
    pub initrd: Option<u64>,
    /// `-append`.
    pub cmdline: &'a str,
}

/// Why a file is no kernel, or no kernel for this machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BzImageError {
    /// It ends within its setup header.
    #[error("setup header: expected at least {HEADER_END} bytes, found {0}")]
    Short(usize),
    /// A field has another value than it must have.
    #[error("{field}: expected {expected}, found {found:#x}")]
    Field {
        /// Its name in the boot protocol.
        field: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: u64,
    },
    /// The setup code is longer than the file.
    #[error("setup_sects: expected setup code within the file's {length} bytes, found {setup} bytes of it")]
    Setup {
        /// The setup code's length.
        setup: u64,
        /// The file's.
        length: usize,
    },
    /// It is no PE image that the firmware loads.
    #[error(transparent)]
    Pe(#[from] PeError),
    /// QEMU finds no place for the initramfs.
    #[error("initramfs: expected less than {limit} bytes in a machine of {memory} bytes, found {size}")]
    Initrd {
        /// Its length.
        size: u64,
        /// How much there is room for.
        limit: u64,
        /// Memory of the machine.
        memory: u64,
    },
    /// QEMU takes a video mode from the command line and writes it into the header; nothing here follows it.
    #[error("command line: expected none with vga= in it, which QEMU writes into the setup header")]
    VideoMode,
}

impl KernelSeen {
    /// By QEMU's version (major and minor), for a machine with `confidential-guest-support`.
    ///
    /// QEMU has not patched for any of these since 10.2 (commit a7542a38f399). From 10.0 on it has the file as it is in
    /// `etc/boot/kernel` too (commit f2594d928444), and there OVMF looks first since edk2-stable202502 (edk2 20df7c42bd):
    /// `named_blobs` says whether the firmware does.
    pub fn of(qemu: (u32, u32), named_blobs: bool) -> Self {
        if qemu >= (10, 2) || (qemu >= (10, 0) && named_blobs) { Self::AsFile } else { Self::Patched }
    }
}

impl<'a> BzImage<'a> {
    /// Reads the setup header.
    ///
    /// # Errors
    /// What makes it no bzImage. Whether it is a PE image too is seen later.
    pub fn parse(file: &'a [u8]) -> Result<Self, BzImageError> {
        let header = Header::read(file).ok_or(BzImageError::Short(file.len()))?;
        let wrong = |field, expected, found| Err(BzImageError::Field { field, expected, found });
        if header.magic != MAGIC {
            return wrong("header", "HdrS", header.magic.into());
        }
        if header.boot_flag != BOOT_FLAG {
            return wrong("boot_flag", "0xaa55", header.boot_flag.into());
        }
        // The EFI handover protocol's version; a kernel before it is no PE image.
        if header.version < 0x20b {
            return wrong("version", "at least 0x20b", header.version.into());
        }
        let sectors = if header.setup_sects == 0 { 4 } else { header.setup_sects };
        let setup = u64::from(sectors).saturating_add(1).saturating_mul(512);
        if setup > file.len() as u64 {
            return Err(BzImageError::Setup { setup, length: file.len() });
        }
        Ok(Self { file, header })
    }

    /// The kernel as the firmware loads it.
    ///
    /// # Errors
    /// If QEMU does not load it, or the firmware does not.
    pub fn pe(&self, seen: KernelSeen, loading: &Loading<'_>) -> Result<Pe<'a>, BzImageError> {
        let view = match seen {
            KernelSeen::AsFile => View::from(self.file),
            KernelSeen::Patched => {
                let length = self.file.len();
                View::new(self.file, self.patch(loading)?).ok_or(BzImageError::Short(length))?
            }
        };
        Ok(Pe::parse(view)?)
    }

    /// What QEMU writes.
    ///
    /// # Errors
    /// If it does not load the kernel, or if a video mode is asked for.
    pub fn patch(&self, loading: &Loading<'_>) -> Result<Vec<Overlay>, BzImageError> {
        if loading.cmdline.contains("vga=") {
            return Err(BzImageError::VideoMode);
        }
        let (real, cmdline) = if self.header.loadflags & LOADED_HIGH == 0 {
            (0x9_0000, 0x9_a000_u32.saturating_sub(cmdline_size(loading.cmdline)))
        } else {
            (0x1_0000, 0x2_0000)
        };
        let heap_end = cmdline.saturating_sub(real).saturating_sub(0x200);
        let mut written = vec![
            at(TYPE_OF_LOADER, &[QEMU]),
            at(LOADFLAGS, &[self.header.loadflags | CAN_USE_HEAP]),
            // QEMU's stw: the lower half. What is above 64 KiB does not fit.
            at(HEAP_END_PTR, heap_end.to_le_bytes().split_at(2).0),
            at(CMD_LINE_PTR, &cmdline.to_le_bytes()),
        ];
        if let Some(size) = loading.initrd {
            let place = self.initrd_place(size, loading.memory)?;
            let size = u32::try_from(size).unwrap_or(u32::MAX);
            written.extend([at(RAMDISK_IMAGE, &place.to_le_bytes()), at(RAMDISK_SIZE, &size.to_le_bytes())]);
        }
        Ok(written)
    }

    /// Page-aligned, as high as the kernel and the memory below 4 GiB of a `q35` machine allow.
    fn initrd_place(&self, size: u64, memory: u64) -> Result<u32, BzImageError> {
        let header = &self.header;
        let wanted = if header.version >= 0x20c && header.xloadflags & CAN_BE_LOADED_ABOVE_4G != 0 {
            u32::MAX
        } else {
            header.initrd_addr_max
        };
        // pc_q35_init, `hw/i386/pc_q35.c`.
        let low = if memory >= 0xb000_0000 { 0x8000_0000 } else { 0xb000_0000 };
        let end = memory.min(low).saturating_sub(ACPI_DATA_SIZE);
        let max = if u64::from(wanted) >= end { end.saturating_sub(1) } else { wanted.into() };
        if size >= max {
            return Err(BzImageError::Initrd { size, limit: max, memory });
        }
        // Below 4 GiB: `wanted` is.
        Ok(u32::try_from(max.saturating_sub(size)).unwrap_or(u32::MAX) & !0xfff)
    }
}

/// The command line with its NUL, as much as QEMU keeps free for it.
pub(super) fn cmdline_size(cmdline: &str) -> u32 {
    u32::try_from(cmdline.len().saturating_add(16) & !15).unwrap_or(u32::MAX)
}

fn at(offset: usize, bytes: &[u8]) -> Overlay {
    Overlay { offset, bytes: bytes.to_vec() }
}

/// What we need of `struct setup_header`.
#[derive(Clone, Copy, Debug)]
struct Header {
    setup_sects: u8,
    boot_flag: u16,
    magic: u32,
    version: u16,
    loadflags: u8,
    initrd_addr_max: u32,
    xloadflags: u16,
}

impl Header {
    fn read(file: &[u8]) -> Option<Self> {
        let view = View::from(file.get(..HEADER_END)?);
        let [setup_sects] = view.array(SETUP_SECTS)?;
        let [loadflags] = view.array(LOADFLAGS)?;
        Some(Self {
            setup_sects,
            boot_flag: u16::from_le_bytes(view.array(0x1fe)?),
            magic: u32::from_le_bytes(view.array(0x202)?),
            version: u16::from_le_bytes(view.array(0x206)?),
            loadflags,
            initrd_addr_max: u32::from_le_bytes(view.array(0x22c)?),
            xloadflags: u16::from_le_bytes(view.array(0x236)?),
        })
    }
}

/// Where the fields of a header of version 2.12 end (`handover_offset`).
const HEADER_END: usize = 0x268;
/// `HdrS`.
const MAGIC: u32 = 0x5372_6448;
const BOOT_FLAG: u16 = 0xaa55;
const SETUP_SECTS: usize = 0x1f1;
const TYPE_OF_LOADER: usize = 0x210;
const LOADFLAGS: usize = 0x211;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21c;
const HEAP_END_PTR: usize = 0x224;
const CMD_LINE_PTR: usize = 0x228;
/// `loadflags`: the kernel is loaded at 1 MiB; the heap may be used.
const LOADED_HIGH: u8 = 0x01;
const CAN_USE_HEAP: u8 = 0x80;
/// `xloadflags`: XLF_CAN_BE_LOADED_ABOVE_4G.
const CAN_BE_LOADED_ABOVE_4G: u16 = 0x02;
/// `type_of_loader` of QEMU, with its revision 0.
const QEMU: u8 = 0xb0;
/// `pcmc->acpi_data_size` of every PC machine type since 2.2 (`hw/i386/pc.c`).
const ACPI_DATA_SIZE: u64 = 0x2_8000;
