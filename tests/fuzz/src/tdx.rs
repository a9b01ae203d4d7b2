//! What the expected registers are computed from: firmware, kernels, a machine's shape, and the tables beside them.

use casemate_measure::Register;
use casemate_measure::tdx::bzimage::{BzImage, KernelSeen, Loading};
use casemate_measure::tdx::hob::{self, td_hob};
use casemate_measure::tdx::mrtd::mrtd;
use casemate_measure::tdx::overlay::{Overlay, View};
use casemate_measure::tdx::pe::Pe;
use casemate_measure::tdx::tdvf::SectionKind;
use casemate_measure::tdx::uki::{self, Uki};
use casemate_measure::tdx::{AcpiTable, Digest, Event, Expected, PageOrder, Rtmr, Tdvf, Vm, event};

use crate::Verdict;
use crate::measured::{check_printable, check_refusal};

/// A refusal without a file's name: whoever read the file gives it.
fn refused(error: &impl ToString) -> Verdict {
    check_printable(&error.to_string());
    Verdict::Refused
}

/// MRTD is what the specification's records make, in both orders; the TD HOB covers each byte of memory once. The first
/// four bytes of the file say how much memory there is.
pub(crate) fn tdvf(file: &[u8]) -> Verdict {
    let firmware = match Tdvf::parse(file) {
        Ok(firmware) => firmware,
        Err(error) => return refused(&error),
    };
    for order in [PageOrder::SinglePass, PageOrder::TwoPass] {
        assert_eq!(mrtd(&firmware, order), Register::digest(&records(&firmware, order)), "{order:?}");
    }
    let mib = file.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes)) % (64 << 20);
    let memory = u64::from(mib) << 20;
    match td_hob(&firmware, memory) {
        Ok(list) => check_hob(&list, &firmware, memory),
        Err(error) => check_printable(&error.to_string()),
    }
    Verdict::Accepted
}

/// What MRTD is a hash of, one record after the other, each made from nothing (Intel TDX module specification,
/// `TDH.MEM.PAGE.ADD` and `TDH.MR.EXTEND`).
fn records(firmware: &Tdvf<'_>, order: PageOrder) -> Vec<u8> {
    let mut stream = Vec::new();
    let record = |name: &[u8], address: u64| {
        let mut record = name.to_vec();
        record.resize(16, 0);
        record.extend(address.to_le_bytes());
        record.resize(128, 0);
        record
    };
    for section in firmware.sections() {
        let page = |number: u64| section.address + number * 4096;
        let add = |stream: &mut Vec<u8>, number: u64| {
            if !section.augment {
                stream.extend(record(b"MEM.PAGE.ADD", page(number)));
            }
        };
        let extend = |stream: &mut Vec<u8>, number: u64| {
            if section.extend {
                let start = usize::try_from(number).unwrap_or(usize::MAX) * 4096;
                for (chunk, address) in section.data[start..][..4096].chunks(256).zip((0_u64..).step_by(256))
                {
                    stream.extend(record(b"MR.EXTEND", page(number) + address));
                    stream.extend(chunk);
                }
            }
        };
        let pages = 0..section.size / 4096;
        match order {
            PageOrder::SinglePass => pages.for_each(|number| {
                add(&mut stream, number);
                extend(&mut stream, number);
            }),
            PageOrder::TwoPass => {
                pages.clone().for_each(|number| add(&mut stream, number));
                pages.for_each(|number| extend(&mut stream, number));
            }
        }
    }
    stream
}

/// A handoff table of 56 bytes, then resources of 48: they are the memory, in order and without a gap, and exactly what the
/// firmware's sections take is accepted.
fn check_hob(list: &[u8], firmware: &Tdvf<'_>, memory: u64) {
    let field = |row: &[u8], at: usize| row[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let (rows, rest) = list[56..].as_chunks::<48>();
    assert!(rest.is_empty());
    let end = firmware.td_hob().address + u64::try_from(list.len()).unwrap_or(u64::MAX) + 8;
    assert_eq!(field(list, 48), end, "the end that it states");
    assert!(end <= firmware.td_hob().end(), "the list is longer than its section");
    let [low, high] = hob::ram(memory);
    let mut at = low.start;
    let mut accepted = 0;
    for row in rows {
        if at == low.end {
            at = high.start;
        }
        let (start, length) = (field(row, 32), field(row, 40));
        assert_eq!(start, at);
        assert!(length > 0);
        at += length;
        // EFI_RESOURCE_SYSTEM_MEMORY; the other kind is EFI_RESOURCE_MEMORY_UNACCEPTED.
        if row[24..28] == [0; 4] {
            accepted += length;
        }
    }
    assert!(at == high.end || (high.is_empty() && at == low.end), "{memory} bytes of memory, found {at}");
    let data = |kind: SectionKind| matches!(kind, SectionKind::Bfv | SectionKind::Cfv);
    let free = firmware.sections().iter().filter(|section| !data(section.kind));
    assert_eq!(accepted, free.map(|section| section.size).sum::<u64>());
}

/// What is accepted is written as a shape that is read as the same.
pub(crate) fn shape(bytes: &[u8]) -> Verdict {
    let vm = match Vm::parse("FILE", bytes) {
        Ok(vm) => vm,
        Err(error) => {
            check_refusal(&error.to_string());
            return Verdict::Refused;
        }
    };
    assert_eq!(Vm::parse("FILE", as_json(&vm).as_bytes()), Ok(vm.clone()));
    check_printable(&vm.shape_key(&[0x44; 32]));
    assert!(vm.memory() > 0 && vm.low_memory_mib() <= vm.memory_mib);
    Verdict::Accepted
}

/// The same of a table of ACPI digests; the capturing side reads in it what we do.
pub(crate) fn acpi_table(bytes: &[u8]) -> Verdict {
    let table = match AcpiTable::parse("FILE", bytes) {
        Ok(table) => table,
        Err(error) => {
            check_refusal(&error.to_string());
            return Verdict::Refused;
        }
    };
    assert_eq!(AcpiTable::parse("FILE", as_json(&table).as_bytes()), Ok(table.clone()));
    // Each machine is there once, so that nothing takes another one's place.
    assert_eq!(AcpiTable::new(table.entries().iter().cloned()), table);
    let other = casemate_qemu::acpi::AcpiTable::read(as_json(&table).as_bytes());
    let other = other.unwrap_or_else(|error| panic!("written, but not read by casemate-qemu: {error}"));
    for (ours, theirs) in table.entries().iter().zip(other.entries()) {
        assert_eq!((ours.qemu.to_string(), &ours.shape), (theirs.qemu.clone(), &theirs.shape));
        assert_eq!(ours.digests.tables, theirs.tables);
    }
    assert_eq!(table.entries().len(), other.entries().len());
    Verdict::accepted(!table.entries().is_empty())
}

/// Bytes that lie over a file are as good as bytes in it, and the digest sees each but those that a signature leaves out.
/// The first three bytes of the input say which byte is changed, and how; the rest is the file.
pub(crate) fn pe(input: &[u8]) -> Verdict {
    let Some(([low, high, flip], file)) = input.split_first_chunk() else { return Verdict::Refused };
    let pe = match Pe::parse(View::from(file)) {
        Ok(pe) => pe,
        Err(error) => return refused(&error),
    };
    let digest = pe.authenticode();
    let at = usize::from(u16::from_le_bytes([*low, *high])) % file.len();
    let mut changed = file.to_vec();
    changed[at] ^= flip;
    let over = View::new(file, vec![Overlay { offset: at, bytes: vec![changed[at]] }]);
    let over = Pe::parse(over.unwrap_or_else(|| panic!("a byte of the file at {at}")));
    let copied = Pe::parse(View::from(changed.as_slice()));
    assert_eq!(
        over.as_ref().map(Pe::authenticode).map_err(ToString::to_string),
        copied.as_ref().map(Pe::authenticode).map_err(ToString::to_string),
        "byte {at}"
    );
    if let Ok(copied) = copied {
        let same = copied.authenticode() == digest;
        assert!(same || *flip != 0);
        let mut filled = pe.sections().iter().filter(|section| section.raw_size > 0);
        let in_a_section = filled.any(|section| {
            at.checked_sub(section.raw_pointer as usize).is_some_and(|at| at < section.raw_size as usize)
        });
        assert!(!same || *flip == 0 || !in_a_section, "byte {at} of a section is not in the digest");
    }
    Verdict::Accepted
}

/// What QEMU writes stays in the setup header, and the initramfs where there is memory. The first eight bytes of the input
/// are the machine's memory in MiB and the initramfs's length; the rest is the kernel.
pub(crate) fn bzimage(input: &[u8]) -> Verdict {
    let Some((sizes, file)) = input.split_first_chunk::<8>() else { return Verdict::Refused };
    let [memory, initrd] = [&sizes[..4], &sizes[4..]]
        .map(|bytes| bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
    let image = match BzImage::parse(file) {
        Ok(image) => image,
        Err(error) => return refused(&error),
    };
    let loading = Loading { memory: memory << 20, initrd: Some(initrd), cmdline: "quiet" };
    let overlays = image.patch(&loading);
    match &overlays {
        Ok(overlays) => {
            for overlay in overlays {
                let end = overlay.offset + overlay.bytes.len();
                assert!((0x1f1..0x268).contains(&overlay.offset) && end <= 0x268, "{overlay:?}");
            }
            let place = overlays.iter().find(|overlay| overlay.offset == 0x218);
            let place = place.and_then(|overlay| overlay.bytes.first_chunk()).map(|b| u32::from_le_bytes(*b));
            let place = u64::from(place.unwrap_or_else(|| panic!("no place for the initramfs")));
            let [low, _] = hob::ram(loading.memory);
            assert!(place % 4096 == 0 && place + initrd < low.end, "{place:#x}");
        }
        Err(error) => check_printable(&error.to_string()),
    }
    let mut accepted = false;
    for seen in [KernelSeen::AsFile, KernelSeen::Patched] {
        let found = image.pe(seen, &loading);
        accepted |= found.is_ok();
        let Ok(found) = found else { continue };
        let mut copy = file.to_vec();
        for overlay in overlays.iter().flatten().filter(|_| seen == KernelSeen::Patched) {
            copy[overlay.offset..][..overlay.bytes.len()].copy_from_slice(&overlay.bytes);
        }
        let copy = Pe::parse(View::from(copy.as_slice())).map(|pe| pe.authenticode());
        assert_eq!(copy, Ok(found.authenticode()), "{seen:?}");
    }
    Verdict::accepted(accepted)
}

/// Every event is known, in its register, and there are no more than the stub measures.
pub(crate) fn uki(file: &[u8]) -> Verdict {
    let overlays = uki::patch("").unwrap_or_else(|error| panic!("no video mode is asked for: {error}"));
    let views = [Some(View::from(file)), View::new(file, overlays)];
    let mut accepted = false;
    for view in views.into_iter().flatten() {
        let uki = match Uki::parse(view) {
            Ok(uki) => uki,
            Err(error) => {
                check_printable(&error.to_string());
                continue;
            }
        };
        accepted = true;
        let (rtmr1, rtmr2) = (uki.rtmr1("FILE"), uki.rtmr2());
        assert_eq!(rtmr1.len(), 6);
        // Nine sections by name and data, command line, initramfs.
        assert!((2..=20).contains(&rtmr2.len()), "{} events", rtmr2.len());
        for (events, rtmr) in [(&rtmr1, Rtmr::Rtmr1), (&rtmr2, Rtmr::Rtmr2)] {
            assert!(event::fold(events).is_some());
            assert!(events.iter().all(|event| event.rtmr == rtmr && known(event)));
            events.iter().for_each(|event| assert!(!event.origin.chars().any(char::is_control)));
        }
    }
    Verdict::accepted(accepted)
}

fn known(event: &Event) -> bool {
    matches!(event.digest, Digest::Known(_))
}

/// What is read is written as what is read as the same; it is equal to itself, and a refusal is one printable line.
pub(crate) fn expected(bytes: &[u8]) -> Verdict {
    let expected = match Expected::read("FILE", bytes) {
        Ok(expected) => expected,
        Err(error) => {
            check_refusal(&error.to_string());
            return Verdict::Refused;
        }
    };
    let written = as_json(&expected);
    assert_eq!(Expected::read("FILE", written.as_bytes()), Ok(expected.clone()));
    for rtmr in Rtmr::ALL {
        assert_eq!(expected.register(rtmr).is_none(), expected.is_unpinned(rtmr));
    }
    Verdict::accepted(!expected.events.is_empty())
}

fn as_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| panic!("not written: {error}"))
}
