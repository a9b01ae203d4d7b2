use casemate_measure::Register;
use casemate_measure::tdx::event::fold;
use casemate_measure::tdx::overlay::View;
use casemate_measure::tdx::pe::Pe;
use casemate_measure::tdx::rtmr2::InitrdArgument;
use casemate_measure::tdx::{Digest, Event, Rtmr, pcr, rtmr1, rtmr2};

use crate::build::Image;

fn known(event: &Event) -> Register {
    match event.digest {
        Digest::Known(digest) => digest,
        Digest::Unpinned => panic!("{}", event.name),
    }
}

/// The digests of real logs (dstack `verifier/fixtures`), which the definitions must give.
#[test]
fn constants_of_rtmr1() {
    let file = Image::default().bytes();
    let kernel = Pe::parse(View::from(file.as_slice())).unwrap();
    let events = rtmr1::direct(&kernel, "bzImage");
    let digests: Vec<String> = events.iter().map(|event| known(event).to_string()).collect();
    assert_eq!(
        digests[1..],
        [
            "77a0dab2312b4e1e57a84d865a21e5b2ee8d677a21012ada819d0a98988078d3d740f6346bfe0abaa938ca20439a8d71",
            "394341b7182cd227c5c6b07ef8000cdfd86136c4292b8e576573ad7ed9ae41019f5818b4b971c9effc60e1ad9f1289f0",
            "214b0bef1379756011344877743fdc2a5382bac6e70362d624ccf3f654407c1b4badf7d8f9295dd3dabdef65b27677e0",
            "0a2e01c85deae718a530ad8c6d20a84009babe6c8989269e950d8cf440c6e997695e64d455c4174a652cd080f6230b74",
        ]
    );
    assert_eq!(known(&events[0]), kernel.authenticode());
    let types: Vec<u32> = events.iter().map(|event| event.event_type.0).collect();
    assert_eq!(types, [0x8000_0003, 0x8000_0007, 4, 0x8000_0007, 0x8000_0007]);
    assert!(events.iter().all(|event| event.rtmr == Rtmr::Rtmr1));
    assert_eq!(
        known(&rtmr1::returning()).to_string(),
        "31fddb567dadf4b80770255fa9fde526a6d33dfae40693baf1cb3f8840458e27b60fec855775ec516e6585260d772281"
    );
}

#[test]
fn the_command_line_with_and_without_an_initramfs() {
    use InitrdArgument::{Appended, Prepended};
    let names = |events: Vec<Event>| events.into_iter().map(|event| event.name).collect::<Vec<_>>();
    let utf16 = |text: &str| {
        Register::digest(&text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect::<Vec<u8>>())
    };
    let both = rtmr2::direct("quiet", Some(b"initramfs"), Appended);
    assert_eq!(known(&both[0]), utf16("quiet initrd=initrd"));
    assert_eq!(known(&both[1]), Register::digest(b"initramfs"));
    assert_eq!(names(both.clone()), ["LOADED_IMAGE::LoadOptions", "Linux initrd"]);
    assert_eq!(fold(&both), Some(rtmr2::register("quiet", b"initramfs")));
    assert_eq!(known(&rtmr2::direct("quiet", Some(b""), Prepended)[0]), utf16("initrd=initrd quiet"));
    assert_eq!(known(&rtmr2::direct("", Some(b""), Appended)[0]), utf16(" initrd=initrd"));
    assert_eq!(known(&rtmr2::direct("quiet", None, Appended)[0]), utf16("quiet"));
    // OVMF makes UTF-16 of it by widening each byte.
    assert_eq!(known(&rtmr2::direct("\u{e9}", None, Appended)[0]), utf16("\u{c3}\u{a9}"));
    assert!(names(rtmr2::direct("", None, Appended)).is_empty());
}

#[test]
fn pcrs_and_registers() {
    let of = |pcrs: &[u32]| pcrs.iter().map(|pcr| pcr::rtmr(*pcr)).collect::<Vec<_>>();
    assert_eq!(of(&[1, 7]), [Some(Rtmr::Rtmr0); 2]);
    assert_eq!(of(&[2, 4, 5, 6]), [Some(Rtmr::Rtmr1); 4]);
    assert_eq!(of(&[8, 9, 11, 12, 15]), [Some(Rtmr::Rtmr2); 5]);
    assert_eq!(of(&[0, 16, 23, u32::MAX]), [None; 4]);
}
