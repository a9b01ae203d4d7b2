use casemate_measure::Register;
use casemate_measure::tdx::bzimage::KernelSeen;
use casemate_measure::tdx::overlay::View;
use casemate_measure::tdx::pe::Pe;
use casemate_measure::tdx::uki::{Uki, UkiError, patch, seen};
use casemate_measure::tdx::{Digest, Event, Rtmr};

use crate::build::{Image, kernel};

const STUB: &[u8] = b"#### LoaderInfo: systemd-stub 257.13-1~deb13u1 ####\0";

/// An image of these sections, one after the other in file and memory, and a stub's.
pub(crate) fn image(sections: &[(&'static str, &[u8])]) -> Image {
    let mut rows = vec![(".sdmagic", 0x1000, u32::try_from(STUB.len()).unwrap(), STUB.to_vec())];
    let mut address = 0x2000;
    for (name, content) in sections {
        let size = u32::try_from(content.len()).unwrap();
        let mut raw = content.to_vec();
        raw.resize(content.len().next_multiple_of(512), 0);
        rows.push((*name, address, size, raw));
        address += size.next_multiple_of(0x1000).max(0x1000);
    }
    let file_order = (0..rows.len()).collect();
    Image { sections: rows, file_order, headers: 1024, ..Image::default() }
}

pub(crate) fn usual() -> Image {
    let kernel = kernel();
    image(&[
        (".osrel", b"ID=casemate\n"),
        (".cmdline", b"quiet panic=-1"),
        (".uname", b"7.3.4"),
        (".initrd", b"archive"),
        (".linux", &kernel),
    ])
}

fn known(events: &[Event]) -> Vec<(&str, Register)> {
    let digest = |event: &Event| match event.digest {
        Digest::Known(digest) => digest,
        Digest::Unpinned => panic!("{}", event.name),
    };
    events.iter().map(|event| (event.name.as_str(), digest(event))).collect()
}

fn parse(file: &[u8]) -> Result<Uki<'_>, UkiError> {
    Uki::parse(View::from(file))
}

#[test]
fn sections_in_the_stubs_order_then_what_linux_measures() {
    let file = usual().bytes();
    let uki = parse(&file).unwrap();
    let kernel = kernel();
    // `newc` records written by hand: directory, file, trailer.
    let extra = concat!(
        "070701",
        "00000001",
        "0000416d",
        "00000000",
        "00000000",
        "00000001",
        "00000000",
        "00000000",
        "00000000",
        "00000000",
        "00000000",
        "00000000",
        "00000007",
        "00000000",
        ".extra\0\0\0\0",
        "070701",
        "00000002",
        "00008124",
        "00000000",
        "00000000",
        "00000001",
        "00000000",
        "0000000c",
        "00000000",
        "00000000",
        "00000000",
        "00000000",
        "00000012",
        "00000000",
        ".extra/os-release\0",
        "ID=casemate\n",
        "070701",
        "00000000",
        "00000000",
        "00000000",
        "00000000",
        "00000001",
        "00000000",
        "00000000",
        "00000000",
        "00000000",
        "00000000",
        "00000000",
        "0000000B",
        "00000000",
        "TRAILER!!!\0\0\0\0",
    );
    let initrd = [b"archive\0", extra.as_bytes()].concat();
    let options: Vec<u8> = "quiet panic=-1\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let expected: [(&str, &[u8]); 12] = [
        (".linux: name", b".linux\0"),
        (".linux: data", &kernel),
        (".osrel: name", b".osrel\0"),
        (".osrel: data", b"ID=casemate\n"),
        (".cmdline: name", b".cmdline\0"),
        (".cmdline: data", b"quiet panic=-1"),
        (".initrd: name", b".initrd\0"),
        (".initrd: data", b"archive"),
        (".uname: name", b".uname\0"),
        (".uname: data", b"7.3.4"),
        ("LOADED_IMAGE::LoadOptions", &options),
        ("Linux initrd", &initrd),
    ];
    let events = uki.rtmr2();
    assert_eq!(known(&events), expected.map(|(name, bytes)| (name, Register::digest(bytes))));
    assert!(events.iter().all(|event| event.rtmr == Rtmr::Rtmr2));

    let events = uki.rtmr1("casemate.efi");
    let names: Vec<&str> = events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "unified kernel image",
            "Calling EFI Application from Boot Option",
            "separator",
            "kernel",
            "Exit Boot Services Invocation",
            "Exit Boot Services Returned with Success"
        ]
    );
    let pe = |bytes: &[u8]| Pe::parse(View::from(bytes)).unwrap().authenticode();
    assert_eq!((known(&events)[0].1, known(&events)[3].1), (pe(&file), pe(&kernel)));
}

#[test]
fn what_is_not_there_is_not_measured() {
    let kernel = kernel();
    let last = |sections: &[(&'static str, &[u8])]| {
        let file = image(sections).bytes();
        let events = parse(&file).unwrap().rtmr2();
        let known = known(&events).into_iter().map(|(name, digest)| (name.to_owned(), digest));
        known.skip(2).collect::<Vec<_>>()
    };
    assert_eq!(last(&[(".linux", &kernel)]), []);
    // A single archive is not padded; an empty section is none.
    let only = last(&[(".linux", &kernel), (".initrd", b"archive"), (".osrel", b"")]);
    assert_eq!(only[2], ("Linux initrd".to_owned(), Register::digest(b"archive")));
    // The signature is handed on, not measured.
    let signed = last(&[(".linux", &kernel), (".pcrsig", b"{}")]);
    assert_eq!(signed.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["Linux initrd"]);
    // Control characters are spaces, and none is left around.
    let line = last(&[(".linux", &kernel), (".cmdline", b" a\tb\n\0c")]);
    let options: Vec<u8> = "a b\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(line[2], ("LOADED_IMAGE::LoadOptions".to_owned(), Register::digest(&options)));
    assert_eq!(last(&[(".linux", &kernel), (".cmdline", b"\n")]).len(), 2);
}

#[test]
fn what_an_older_qemu_writes() {
    let written = |append: &str| {
        patch(append).unwrap().iter().map(|o| (o.offset, hex::encode(&o.bytes))).collect::<Vec<_>>()
    };
    // A command line's place is below 0xa000 by its length with a NUL, in steps of 16.
    assert_eq!(written(""), [(0x20, "3fa3f09f".into())]);
    assert_eq!(written(&"x".repeat(15)), [(0x20, "3fa3f09f".into())]);
    assert_eq!(written(&"x".repeat(16)), [(0x20, "3fa3e09f".into())]);
    assert_eq!(patch("vga=1"), Err(UkiError::VideoMode));

    for (qemu, who) in [
        ((7, 2, 15), KernelSeen::Patched),
        ((7, 2, 16), KernelSeen::AsFile),
        ((8, 2, 2), KernelSeen::Patched),
        ((9, 0, 9), KernelSeen::Patched),
        ((9, 2, 0), KernelSeen::Patched),
        ((10, 0, 0), KernelSeen::AsFile),
        ((11, 1, 3), KernelSeen::AsFile),
    ] {
        assert_eq!(seen(qemu), who, "{qemu:?}");
    }

    let file = usual().bytes();
    let view = View::new(&file, patch("").unwrap()).unwrap();
    let (patched, plain) = (Uki::parse(view).unwrap(), parse(&file).unwrap());
    let (patched_events, plain_events) = (patched.rtmr1(""), plain.rtmr1(""));
    assert_ne!(patched_events[0], plain_events[0]);
    assert_eq!((&patched_events[1..], patched.rtmr2()), (&plain_events[1..], plain.rtmr2()));
}

#[test]
fn what_is_no_uki_is_named() {
    let kernel = kernel();
    let error = |sections: &[(&'static str, &[u8])]| parse(&image(sections).bytes()).unwrap_err().to_string();
    assert_eq!(error(&[(".initrd", b"x")]), "sections: expected .linux, found none");
    assert_eq!(error(&[(".linux", b"")]), "sections: expected .linux, found none");
    assert_eq!(
        error(&[(".linux", b"MZ")]),
        ".linux: DOS header: expected an end within the file's 2 bytes, found 64"
    );
    assert_eq!(
        error(&[(".linux", &kernel), (".profile", b"ID=x")]),
        ".profile: presence: expected none in an image of one profile for x86, found it"
    );
    assert_eq!(
        error(&[(".linux", &kernel), (".cmdline", "\u{e9}".as_bytes())]),
        ".cmdline: text: expected ASCII, found \"\u{e9}\""
    );
    assert_eq!(parse(&kernel).unwrap_err().to_string(), "sections: expected .sdmagic, found none");
    let change = |change: fn(&mut Image)| {
        let mut image = usual();
        change(&mut image);
        parse(&image.bytes()).unwrap_err().to_string()
    };
    assert_eq!(
        change(|image| image.sections[0].3[30] = b'6'),
        ".sdmagic: systemd-stub: expected version 257, found \"#### LoaderInfo: systemd-stub 657.13-1~deb13u1 ####\""
    );
    assert_eq!(
        change(|image| image.sections[1].2 = 513),
        ".osrel: VirtualSize: expected at most SizeOfRawData, found 513"
    );
    assert_eq!(
        change(|image| image.sections[2].1 = 0x2004),
        "section at 0x2004: expected addresses of its own, found those of the section before it"
    );
}
