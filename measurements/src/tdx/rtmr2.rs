//! RTMR2: the command line and the initramfs, as Linux measures them (`drivers/firmware/efi/libstub/efi-stub-helper.c`:
//! `efi_convert_cmdline`, `efi_load_initrd`).

use serde::Serialize;
use sha2::{Digest as _, Sha384};

use super::event::{Digest, Event, EventType, Rtmr, fold};
use crate::register::Register;

/// Where OVMF puts `initrd=initrd` into the command line, when QEMU gives an initramfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum InitrdArgument {
    /// Behind it: ` initrd=initrd`. Up to edk2-stable202505.
    Appended,
    /// Before it: `initrd=initrd `. Since edk2-stable202508 (commit a2ac0fea49).
    Prepended,
}

/// A direct boot: the command line of `-append` and the file of `-initrd`.
pub fn direct(cmdline: &str, initrd: Option<&[u8]>, argument: InitrdArgument) -> Vec<Event> {
    let loaded = match (initrd, argument) {
        (None, _) => cmdline.to_owned(),
        (Some(_), InitrdArgument::Appended) => format!("{cmdline} initrd=initrd"),
        (Some(_), InitrdArgument::Prepended) => format!("initrd=initrd {cmdline}"),
    };
    // OVMF widens bytes, whatever their encoding.
    let units = loaded.bytes().map(u16::from);
    let mut events = Vec::new();
    // Without a command line and an initramfs there are no load options, and Linux measures none.
    if !loaded.is_empty() {
        events.push(load_options(units, format!("command line: {loaded}")));
    }
    events.extend(initrd.map(|bytes| linux_initrd([bytes], "initramfs file".to_owned())));
    events
}

/// RTMR2 of a direct boot with an initramfs, under firmware that appends.
pub fn register(cmdline: &str, initrd: &[u8]) -> Register {
    // Each of these events is known.
    fold(&direct(cmdline, Some(initrd), InitrdArgument::Appended)).unwrap_or(Register::ZERO)
}

/// `LOADED_IMAGE::LoadOptions`: UTF-16LE with a terminator.
pub(super) fn load_options(units: impl Iterator<Item = u16>, origin: String) -> Event {
    let bytes: Vec<u8> = units.chain([0]).flat_map(u16::to_le_bytes).collect();
    event("LOADED_IMAGE::LoadOptions", Register::digest(&bytes), origin)
}

/// `Linux initrd`, in pieces.
pub(super) fn linux_initrd<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, origin: String) -> Event {
    let mut hash = Sha384::new();
    pieces.into_iter().for_each(|piece| hash.update(piece));
    event("Linux initrd", Register(hash.finalize().into()), origin)
}

fn event(name: &str, digest: Register, origin: String) -> Event {
    let (name, digest) = (name.to_owned(), Digest::Known(digest));
    Event { rtmr: Rtmr::Rtmr2, event_type: EventType::EVENT_TAG, name, digest, origin }
}
