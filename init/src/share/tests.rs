//! Whole shares: which device is taken, what of it is read, and what ends it.

use fatfs::FatType;

use super::fat::tests::image;
use super::*;

const OTHER: [u8; 11] = *b"DATA       ";

fn share(files: &[(&str, &[u8])]) -> Vec<u8> {
    image(FatType::Fat16, *LABEL, files)
}

fn devices<'a>(images: &[&'a [u8]]) -> Vec<(String, &'a [u8])> {
    ["vda", "vdb", "vdc"].iter().zip(images).map(|(name, image)| ((*name).to_owned(), *image)).collect()
}

fn refused(images: &[&[u8]]) -> (Refusal, String) {
    let error = read(devices(images)).map(drop).unwrap_err();
    (error.refusal(), error.to_string())
}

#[test]
fn the_labelled_device_is_taken_and_its_three_files() {
    let seed = "0a".repeat(20);
    let info = format!(r#"{{"instance_id_seed":"{seed}","instance_id":"{seed}","app_id":""}}"#);
    let files: [(&str, &[u8]); 5] = [
        (".user-config", b"never read"),
        (DOCUMENT, b"{} any bytes\xff"),
        (SYS_CONFIG, br#"{"vm_config": "{}", "mr_config": "{ }"}"#),
        (INSTANCE_INFO, info.as_bytes()),
        (".encrypted-env", b"never read"),
    ];
    for kind in [FatType::Fat12, FatType::Fat16, FatType::Fat32] {
        let (other, share) = (image(FatType::Fat16, OTHER, &files), image(kind, *LABEL, &files));
        let noise = vec![0x5a; 8192];
        let answer = read(devices(&[&noise, &other, &share])).unwrap();
        assert_eq!(answer.document, b"{} any bytes\xff");
        assert_eq!(answer.mr_config.as_deref(), Some(&b"{ }"[..]));
        assert_eq!((answer.instance.seed, answer.instance.app_id), (Some([0x0a; 20]), None));
    }
    let least = read_image(&share(&[(DOCUMENT, b"")])).unwrap();
    assert_eq!(
        (least.document.len(), least.mr_config, least.instance),
        (0, None, files::InstanceInfo::default())
    );
}

#[test]
fn none_or_two_labelled_devices_are_refused() {
    let (one, other) = (share(&[(DOCUMENT, b"1")]), image(FatType::Fat32, OTHER, &[(DOCUMENT, b"2")]));
    let (refusal, words) = refused(&[&other, &[], b"short"]);
    assert_eq!(refusal, Refusal::NoneLabelled);
    assert_eq!(words, "expected a disk with the FAT label DSTACKSHR, found 3 disks without it");
    assert_eq!(refused(&[]).0, Refusal::NoneLabelled);
    let (refusal, words) = refused(&[&one, &other, &one]);
    assert_eq!(refusal, Refusal::TwoLabelled);
    assert!(words.ends_with("found vda and vdc"), "{words}");
}

#[test]
fn the_root_directorys_label_counts_before_the_boot_sectors() {
    let mut bytes = share(&[(DOCUMENT, b"1")]);
    let at = |bytes: &[u8], from: usize| (from..).find(|at| bytes[*at..].starts_with(LABEL)).unwrap();
    let boot = at(&bytes, 0);
    let entry = at(&bytes, boot + 1);
    assert!(boot < 512 && entry > 512);
    bytes[boot..boot + 11].copy_from_slice(&OTHER);
    assert!(read_image(&bytes).is_ok());
    bytes[entry] = b'X';
    assert_eq!(refused(&[&bytes]).0, Refusal::NoneLabelled);
    bytes[boot..boot + 11].copy_from_slice(LABEL);
    assert_eq!(refused(&[&bytes]).0, Refusal::NoneLabelled);
    bytes[entry] = 0xe5;
    assert!(read_image(&bytes).is_ok(), "the boot sector's, where there is no other");
}

#[test]
fn limits_are_exact_and_what_is_too_long_is_not_read() {
    for (name, limit) in
        [(DOCUMENT, DOCUMENT_MAX), (SYS_CONFIG, SYS_CONFIG_MAX), (INSTANCE_INFO, INSTANCE_INFO_MAX)]
    {
        let mut content = vec![b' '; limit as usize + 1];
        content[..2].copy_from_slice(b"{}");
        let with = |content: &[u8]| {
            let mut files = vec![(name, content)];
            if name != DOCUMENT {
                files.push((DOCUMENT, b"1"));
            }
            share(&files)
        };
        read_image(&with(&content[..limit as usize])).unwrap();
        let (refusal, words) = refused(&[&with(&content)]);
        assert_eq!(refusal, Refusal::TooLong);
        assert_eq!(words, format!("{name}: expected at most {limit} bytes, found {}", limit + 1));
    }
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let (refusal, words) = refused(&[&share(&[(SYS_CONFIG, b"{}")])]);
    assert_eq!(refusal, Refusal::NoDocument);
    assert!(words.starts_with("app-compose.json: expected"), "{words}");
    let (refusal, words) = refused(&[&share(&[(DOCUMENT, b"1"), (SYS_CONFIG, b"{")])]);
    assert_eq!(refusal, Refusal::Field);
    assert!(words.starts_with(".sys-config.json: "), "{words}");
    let (refusal, words) = refused(&[&share(&[(DOCUMENT, b"1"), (INSTANCE_INFO, br#"{"app_id":"1"}"#)])]);
    assert_eq!(refusal, Refusal::Field);
    assert!(words.starts_with(".instance_info: app_id: "), "{words}");
    let whole = share(&[(DOCUMENT, &vec![b'x'; 300_000])]);
    let (refusal, words) = refused(&[&whole[..whole.len() / 64]]);
    assert_eq!(refusal, Refusal::Device, "cut short: {words}");
    assert!(words.starts_with("vda: "), "{words}");
}

/// A disk that fails is the host's doing, and no reason to look at the next one.
#[test]
fn a_device_that_fails_is_refused() {
    struct Broken;
    impl Source for Broken {
        fn fill(&mut self, _: u64, _: &mut [u8]) -> std::io::Result<()> {
            Err(std::io::Error::from_raw_os_error(5))
        }
    }
    let error = read(vec![("vda".to_owned(), Broken)]).unwrap_err();
    assert_eq!(error.refusal(), Refusal::Device);
    assert_eq!(error.to_string(), "vda: Input/output error (os error 5)");
}

#[test]
fn statuses_are_read_back() {
    for refusal in Refusal::ALL {
        assert_eq!(Refusal::from_status(refusal.status().into()), Some(*refusal));
    }
    assert_eq!(Refusal::from_status(0), None);
    assert_eq!(Refusal::from_status(1), None);
}
