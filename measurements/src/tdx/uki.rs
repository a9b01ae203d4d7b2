//! A unified kernel image given with `-kernel`: a PE image in which systemd-stub carries kernel, command line and initramfs.
//!
//! The firmware measures the whole of it, and then the kernel, which the stub loads from memory (systemd v257
//! `src/boot/linux.c`). The stub measures its sections (`src/boot/stub.c`, `measure_sections`) into PCR 11, which is RTMR2.
//! Linux measures command line and initramfs as in every boot. What the stub adds when it finds a file system (credentials,
//! extensions, add-ons) or a command line from outside is in no expected log.
//!
//! Nothing here checks what relocations of the stub do to the sections in memory: those of systemd's own touch none of them.

use super::bzimage::{KernelSeen, cmdline_size};
use super::event::{Digest, Event, EventType, Rtmr};
use super::overlay::{Overlay, View};
use super::pe::{Pe, PeError, Section};
use super::{rtmr1, rtmr2};
use crate::register::Register;

/// A UKI of a stub that we know.
#[derive(Clone, Debug)]
pub struct Uki<'a> {
    pe: Pe<'a>,
    kernel: Pe<'a>,
    /// Those that mean something to the stub, in its own order.
    sections: Vec<(&'static str, &'a [u8])>,
    cmdline: Option<String>,
}

/// Why a file is no UKI whose measurements are known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UkiError {
    /// It is no PE image that the firmware loads.
    #[error(transparent)]
    Pe(#[from] PeError),
    /// What it carries is none.
    #[error(".linux: {0}")]
    Kernel(PeError),
    /// A section is missing.
    #[error("sections: expected {0}, found none")]
    Missing(&'static str),
    /// A section is wrong.
    #[error("{name}: {field}: expected {expected}, found {found}")]
    Section {
        /// Its name.
        name: &'static str,
        /// What of it.
        field: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// Two sections share addresses.
    #[error("section at {address:#x}: expected addresses of its own, found those of the section before it")]
    Shared {
        /// Where the later one begins.
        address: u32,
    },
    /// QEMU takes a video mode from the command line and writes it into the file; nothing here follows it.
    #[error("command line: expected none with vga= in it, which QEMU writes into the image")]
    VideoMode,
}

/// By QEMU's version: what is no bzImage is not written into since 10.0 (commit 57e2cc9abf5d), which stable releases took.
pub const fn seen(qemu: (u32, u32, u32)) -> KernelSeen {
    match qemu {
        (10.., ..) | (9, 2, 1..) | (9, 1, 3..) | (8, 2, 9..) | (7, 2, 16..) => KernelSeen::AsFile,
        _ => KernelSeen::Patched,
    }
}

/// What an older QEMU writes: the command line's magic and its place, as in the first boot protocol (`x86_load_linux`). They
/// are in the DOS header.
///
/// # Errors
/// If a video mode is asked for.
pub fn patch(append: &str) -> Result<Vec<Overlay>, UkiError> {
    if append.contains("vga=") {
        return Err(UkiError::VideoMode);
    }
    let place = 0xa000_u32.saturating_sub(cmdline_size(append));
    let [low, high, ..] = place.to_le_bytes();
    let [magic_low, magic_high] = 0xa33f_u16.to_le_bytes();
    Ok(vec![Overlay { offset: 0x20, bytes: vec![magic_low, magic_high, low, high] }])
}

impl<'a> Uki<'a> {
    /// Finds the sections, as the firmware sees the file.
    ///
    /// # Errors
    /// What makes it no UKI, or one of a stub whose measurements are not known here.
    pub fn parse(view: View<'a>) -> Result<Self, UkiError> {
        let pe = Pe::parse(view)?;
        addresses(pe.sections())?;
        stub_version(data(&pe, STUB_MAGIC)?.ok_or(UkiError::Missing(STUB_MAGIC))?)?;
        for name in UNKNOWN {
            if find(&pe, name).is_some() {
                return Err(wrong(name, "presence", "none in an image of one profile for x86", "it".into()));
            }
        }
        let mut sections = Vec::new();
        for name in SECTIONS {
            // The stub takes an empty one for none.
            sections.extend(data(&pe, name)?.filter(|bytes| !bytes.is_empty()).map(|bytes| (name, bytes)));
        }
        let get = |wanted: &str| section_of(&sections, wanted);
        let linux = get(LINUX).ok_or(UkiError::Missing(LINUX))?;
        let kernel = Pe::parse(linux.into()).map_err(UkiError::Kernel)?;
        let cmdline = get(CMDLINE).map(command_line).transpose()?;
        Ok(Self { pe, kernel, sections, cmdline })
    }

    /// RTMR1: the image, the kernel in it, and what every boot has. `origin` says which file it is, and as whom it was seen.
    pub fn rtmr1(&self, origin: impl Into<String>) -> Vec<Event> {
        let [calling, separator] = rtmr1::ready_to_boot();
        let [invoked, succeeded] = rtmr1::exit_boot_services();
        let image = rtmr1::application("unified kernel image", &self.pe, origin);
        let kernel = rtmr1::application("kernel", &self.kernel, "section .linux");
        vec![image, calling, separator, kernel, invoked, succeeded]
    }

    /// RTMR2: the sections, then the command line and the initramfs.
    pub fn rtmr2(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for (name, bytes) in self.sections.iter().filter(|(name, _)| *name != PCRSIG) {
            let terminated: Vec<u8> = name.bytes().chain([0]).collect();
            events.push(ipl(format!("{name}: name"), &terminated, "its name with a NUL byte"));
            events.push(ipl(format!("{name}: data"), bytes, "section of the unified kernel image"));
        }
        let cmdline = self.cmdline.iter().filter(|line| !line.is_empty());
        events.extend(
            cmdline.map(|line| rtmr2::load_options(line.encode_utf16(), format!("section .cmdline: {line}"))),
        );
        events.extend(self.initrd());
        events
    }

    /// What the stub makes of the sections that are for Linux's own userspace: `combine_initrds`.
    fn initrd(&self) -> Option<Event> {
        let get = |wanted: &str| section_of(&self.sections, wanted);
        let archives: Vec<Vec<u8>> =
            WRAPPED.iter().filter_map(|(name, file)| Some(archive(file, get(name)?))).collect();
        let plain = [UCODE, INITRD].into_iter().filter_map(get);
        let parts: Vec<&[u8]> = plain.chain(archives.iter().map(Vec::as_slice)).collect();
        let origin = "sections .ucode and .initrd, and systemd-stub's archives of others".to_owned();
        match parts.as_slice() {
            [] => None,
            // A single one is passed on as it is.
            [one] => Some(rtmr2::linux_initrd([*one], origin)),
            several => Some(rtmr2::linux_initrd(
                several.iter().flat_map(|part| [*part, padding(part.len())]),
                origin,
            )),
        }
    }
}

fn wrong(name: &'static str, field: &'static str, expected: &'static str, found: String) -> UkiError {
    UkiError::Section { name, field, expected, found }
}

fn section_of<'a>(sections: &[(&'static str, &'a [u8])], wanted: &str) -> Option<&'a [u8]> {
    sections.iter().find(|(name, _)| *name == wanted).map(|(_, bytes)| *bytes)
}

/// The first of that name: so the stub looks.
fn find<'p>(pe: &'p Pe<'_>, name: &str) -> Option<&'p Section> {
    pe.sections().iter().find(|section| section.name() == name.as_bytes())
}

/// What the section is in memory.
fn data<'a>(pe: &Pe<'a>, name: &'static str) -> Result<Option<&'a [u8]>, UkiError> {
    let Some(section) = find(pe, name) else { return Ok(None) };
    if section.virtual_size > section.raw_size {
        let (field, expected) = ("VirtualSize", "at most SizeOfRawData");
        return Err(wrong(name, field, expected, section.virtual_size.to_string()));
    }
    let start = section.raw_pointer as usize;
    let end = start.saturating_add(section.virtual_size as usize);
    match pe.view().plain(start..end) {
        Some(bytes) => Ok(Some(bytes)),
        // Empty, at a place where there is nothing.
        None if section.virtual_size == 0 => Ok(None),
        None => Err(wrong(name, "data", "bytes of the file", "bytes that QEMU writes".into())),
    }
}

/// Sections that share addresses would overwrite each other in memory.
fn addresses(sections: &[Section]) -> Result<(), UkiError> {
    let mut sorted: Vec<&Section> = sections.iter().collect();
    sorted.sort_by_key(|section| section.virtual_address);
    let mut free = 0;
    for section in sorted {
        if u64::from(section.virtual_address) < free {
            return Err(UkiError::Shared { address: section.virtual_address });
        }
        free = u64::from(section.virtual_address).saturating_add(section.virtual_size.into());
    }
    Ok(())
}

/// `#### LoaderInfo: systemd-stub 257.13-1~deb13u1 ####`
fn stub_version(magic: &[u8]) -> Result<(), UkiError> {
    let text = String::from_utf8_lossy(magic);
    let version = text.split_once("systemd-stub ").map_or("", |(_, rest)| rest);
    if version.split(|c: char| !c.is_ascii_digit()).next() == Some(STUB_VERSION) {
        return Ok(());
    }
    Err(wrong(STUB_MAGIC, "systemd-stub", "version 257", format!("{:?}", text.trim_end_matches('\0'))))
}

/// As `mangle_stub_cmdline` leaves it (`src/boot/util.c`): up to a NUL, control characters as spaces, none around it.
fn command_line(bytes: &[u8]) -> Result<String, UkiError> {
    let line = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    if !line.is_ascii() {
        let found = String::from_utf8_lossy(line).into_owned();
        return Err(wrong(CMDLINE, "text", "ASCII", format!("{found:?}")));
    }
    let spaced = line.iter().map(|byte| if byte.is_ascii_control() { ' ' } else { char::from(*byte) });
    Ok(spaced.collect::<String>().trim_matches(' ').to_owned())
}

fn ipl(name: String, bytes: &[u8], origin: &str) -> Event {
    let digest = Digest::Known(Register::digest(bytes));
    Event { rtmr: Rtmr::Rtmr2, event_type: EventType::IPL, name, digest, origin: origin.to_owned() }
}

/// A directory `.extra` with one file in it, as `pack_cpio_literal` writes it (`src/boot/cpio.c`).
fn archive(file: &str, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut record = |inode: u32, mode: u32, path: &str, content: &[u8]| {
        // A section's length has 32 bits.
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name = u32::try_from(path.len()).unwrap_or(u32::MAX).saturating_add(1);
        bytes.extend_from_slice(b"070701");
        for field in [inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name, 0] {
            bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        bytes.extend_from_slice(path.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(padding(bytes.len()));
        bytes.extend_from_slice(content);
        bytes.extend_from_slice(padding(bytes.len()));
    };
    record(1, 0o040_555, EXTRA, &[]);
    record(2, 0o100_444, &format!("{EXTRA}/{file}"), content);
    // Written out in the stub, and the only record with an upper case digit.
    bytes.extend_from_slice(b"070701");
    for field in ["00000000"; 4].into_iter().chain(["00000001"]).chain(["00000000"; 6]) {
        bytes.extend_from_slice(field.as_bytes());
    }
    bytes.extend_from_slice(b"0000000B00000000TRAILER!!!\0\0\0\0");
    bytes
}

/// NUL bytes up to the next multiple of four.
fn padding(length: usize) -> &'static [u8] {
    match length & 3 {
        1 => &[0; 3],
        2 => &[0; 2],
        3 => &[0; 1],
        _ => &[],
    }
}

/// The stub's own order of measurement (`src/fundamental/uki.c`), without those of [`UNKNOWN`].
const SECTIONS: [&str; 10] =
    [LINUX, ".osrel", CMDLINE, INITRD, UCODE, ".splash", ".uname", ".sbat", PCRSIG, ".pcrpkey"];
const LINUX: &str = ".linux";
const CMDLINE: &str = ".cmdline";
const INITRD: &str = ".initrd";
const UCODE: &str = ".ucode";
/// Signs what is measured, and so is not measured itself.
const PCRSIG: &str = ".pcrsig";
/// Several profiles in one image, and device trees: which of them count depends on more than the file.
const UNKNOWN: [&str; 4] = [".profile", ".dtb", ".dtbauto", ".hwids"];
/// What Linux's userspace gets in files of [`EXTRA`], in the order in which the archives follow each other.
const WRAPPED: [(&str, &str); 3] =
    [(PCRSIG, "tpm2-pcr-signature.json"), (".pcrpkey", "tpm2-pcr-public-key.pem"), (".osrel", "os-release")];
/// The stub's directory in the initramfs.
const EXTRA: &str = ".extra";
/// Where the stub says what it is.
const STUB_MAGIC: &str = ".sdmagic";
/// The version whose order and whose archives these are. Others measure other sections and add other files.
const STUB_VERSION: &str = "257";
