#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

fn slots() -> (Slots, File) {
    let memory = create().unwrap();
    let beside = File::from(memory.try_clone().unwrap());
    (Slots::new(memory).unwrap(), beside)
}

#[test]
fn the_newest_content_comes_back_also_to_another_process() {
    let (slots, beside) = slots();
    assert_eq!(slots.read(), None);
    for content in [&b"one"[..], b"", b"three", &vec![7; MAX_CONTENT]] {
        slots.write(content).unwrap();
        assert_eq!(slots.read().as_deref(), Some(content));
    }
    let again = Slots::new(beside.into()).unwrap();
    again.write(b"next").unwrap();
    assert_eq!(slots.read().unwrap(), b"next");
    assert!(slots.write(&vec![0; MAX_CONTENT + 1]).is_err());
    assert_eq!(slots.read().unwrap(), b"next");
}

#[test]
fn a_write_that_is_cut_anywhere_leaves_the_one_before() {
    // The third write goes where the first one was; what a cut leaves is a beginning of what it wrote, content first.
    let content = |byte: u8| vec![byte; 100];
    let (whole, written) = slots();
    for byte in 1..=3 {
        whole.write(&content(byte)).unwrap();
    }
    let mut after = vec![0; HEADER + 100];
    written.read_exact_at(&mut after, 0).unwrap();
    let (header, body) = after.split_at(HEADER);
    for cut in 0..100 {
        let (slots, beside) = slots();
        slots.write(&content(1)).unwrap();
        slots.write(&content(2)).unwrap();
        beside.write_all_at(body.get(..cut).unwrap(), header_length()).unwrap();
        assert_eq!(slots.read().unwrap(), content(2), "{cut} bytes of content");
        slots.write(&content(4)).unwrap();
        assert_eq!(slots.read().unwrap(), content(4));
    }
    for cut in 0..HEADER {
        let (slots, beside) = slots();
        slots.write(&content(1)).unwrap();
        slots.write(&content(2)).unwrap();
        beside.write_all_at(body, header_length()).unwrap();
        beside.write_all_at(header.get(..cut).unwrap(), 0).unwrap();
        assert_eq!(slots.read().unwrap(), content(2), "{cut} bytes of the header");
    }
}

#[test]
fn whatever_else_is_in_it_is_none() {
    let (slots, beside) = slots();
    for (length, magic) in
        [(u64::MAX, MAGIC), (SIZE, MAGIC), (MAX_CONTENT as u64 + 1, MAGIC), (0, *b"cmvpnst2")]
    {
        for start in SLOTS {
            let mut header = magic.to_vec();
            header.extend_from_slice(&u64::MAX.to_le_bytes());
            header.extend_from_slice(&length.to_le_bytes());
            header.extend_from_slice(&digest(u64::MAX, length, b""));
            beside.write_all_at(&header, start).unwrap();
        }
        assert_eq!(slots.read(), None);
    }
    slots.write(b"x").unwrap();
    assert_eq!(slots.read().unwrap(), b"x");
}

#[test]
fn the_last_generation_is_followed_by_the_first() {
    let (slots, beside) = slots();
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&u64::MAX.to_le_bytes());
    bytes.extend_from_slice(&4_u64.to_le_bytes());
    bytes.extend_from_slice(&digest(u64::MAX, 4, b"last"));
    bytes.extend_from_slice(b"last");
    for start in SLOTS {
        beside.write_all_at(&bytes, start).unwrap();
    }
    assert_eq!(slots.read().unwrap(), b"last");
    for content in [&b"first"[..], b"second", b"third"] {
        slots.write(content).unwrap();
        assert_eq!(slots.read().as_deref(), Some(content));
    }
}

#[test]
fn nobody_resizes_it() {
    let (_slots, beside) = slots();
    assert!(beside.set_len(SIZE - 1).is_err());
    assert!(beside.set_len(SIZE + 1).is_err());
    assert!(fcntl(&beside, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).is_err());
    let short = File::from(memfd_create("short", MFdFlags::MFD_CLOEXEC).unwrap());
    assert!(Slots::new(short.into()).is_err());
}
