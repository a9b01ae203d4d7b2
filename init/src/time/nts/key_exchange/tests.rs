//! Offers, good and otherwise.

use proptest::prelude::*;

use super::*;

const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
const NAME: &str = "nts.example";

fn record(critical: bool, kind: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = (kind | if critical { 0x8000 } else { 0 }).to_be_bytes().to_vec();
    bytes.extend_from_slice(&u16::try_from(body.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn good() -> Vec<Vec<u8>> {
    let mut all = vec![record(true, 1, &[0, 0]), record(true, 4, &[0, 15])];
    all.extend((0..8).map(|n| record(false, 5, &[n; 100])));
    all.push(record(true, 0, &[]));
    all
}

fn judged(records: &[Vec<u8>]) -> Result<Vec<Cookie>, TimeError> {
    judge(&records.concat(), ADDRESS, NAME)
}

/// The good answer with one record in the place of another.
fn with(at: usize, record: Vec<u8>) -> Vec<Vec<u8>> {
    let mut all = good();
    all[at] = record;
    all
}

fn and(record: Vec<u8>) -> Vec<Vec<u8>> {
    let mut all = good();
    all.insert(2, record);
    all
}

#[test]
fn what_we_ask_for_is_what_we_take() {
    let mut kinds = records(&REQUEST).map(|one| one.unwrap());
    let expected = [(true, 1, vec![0, 0]), (true, 4, vec![0, 15]), (true, 0, vec![])];
    for (critical, kind, body) in expected {
        let one = kinds.next().unwrap();
        assert_eq!((one.critical, one.kind, one.body), (critical, kind, body.as_slice()));
    }
    assert!(kinds.next().is_none());
    let cookies = judged(&good()).unwrap();
    assert_eq!(cookies.len(), 8);
    assert_eq!(cookies[3], Cookie::new(&[3; 100]).unwrap());
}

#[test]
fn a_server_may_name_itself() {
    for body in ["192.0.2.1", "::ffff:192.0.2.1", "nts.example", "NTS.Example", "nts.example."] {
        for critical in [true, false] {
            judged(&and(record(critical, 6, body.as_bytes()))).unwrap();
        }
    }
    judged(&and(record(true, 7, &[0, 123]))).unwrap();
    judged(&and(record(false, 0x4000, b"unknown, not critical"))).unwrap();
}

#[test]
fn another_host_is_refused() {
    for body in ["192.0.2.2", "2001:db8::1", "other.example", "nts.example.evil.example", "", "nts", "\u{0}"]
    {
        for critical in [true, false] {
            let error = judged(&and(record(critical, 6, body.as_bytes()))).unwrap_err();
            assert!(matches!(&error, TimeError::OtherHost(host) if host == body), "{body:?}: {error}");
        }
    }
    // After our own name too: the last word does not count.
    let mut both = and(record(true, 6, b"other.example"));
    both.insert(2, record(true, 6, NAME.as_bytes()));
    assert!(matches!(judged(&both), Err(TimeError::OtherHost(_))));
    assert!(matches!(judged(&and(record(true, 6, &[0xff; 5]))), Err(TimeError::OtherHost(_))));
}

#[test]
fn everything_else_that_is_no_offer_is_refused() {
    let mut two_protocols = and(record(true, 1, &[0, 0]));
    two_protocols.push(vec![]);
    let no_cookie: Vec<_> = good().into_iter().filter(|one| one[1] != 5).collect();
    let no_end = good()[..10].to_vec();
    for (records, why) in [
        (and(record(true, 7, &[0x11, 0x5c])), "NTP port 123"),
        (and(record(false, 7, &[1, 200])), "NTP port 123"),
        (and(record(true, 7, &[123])), "NTP port 123"),
        (and(record(true, 2, &[0, 1])), "error [00, 01]"),
        (and(record(true, 3, &[0, 0])), "warning"),
        (and(record(true, 0x4000, b"")), "critical record 16384"),
        (with(0, record(true, 1, &[0, 1])), "next protocol"),
        (with(0, record(true, 1, &[0, 0, 0, 1])), "next protocol"),
        (with(0, record(true, 1, &[])), "next protocol"),
        (with(0, record(false, 0x4000, &[])), "expected next protocol NTPv4, found none"),
        (two_protocols, "next protocol"),
        (with(1, record(true, 4, &[0, 17])), "AEAD"),
        (with(1, record(false, 0x4000, &[])), "expected AEAD_AES_SIV_CMAC_256, found none"),
        (with(2, record(false, 5, &[0; 1000])), "a cookie of"),
        (with(2, record(false, 5, &[0; 17])), "a cookie of"),
        (with(2, record(false, 5, &[])), "a cookie of"),
        (no_cookie, "expected a cookie, found none"),
        (no_end, "an end of message"),
        (with(10, record(false, 0, &[])), "critical end"),
        (with(10, record(true, 0, &[0])), "critical end"),
        (with(10, vec![0x80]), "a whole record"),
        (vec![], "an end of message"),
        (vec![vec![0; LONGEST + 1]], "16 KiB"),
    ] {
        let error = judged(&records).unwrap_err().to_string();
        assert!(error.contains(why), "{error} and not {why}");
    }
}

#[test]
fn reading_ends_with_the_message() {
    let all = good().concat();
    assert!(is_complete(&all));
    for length in 0..all.len() {
        assert!(!is_complete(&all[..length]), "{length}");
    }
    assert!(is_complete(&[1; LONGEST]));
    // More cookies than there is use for are not kept.
    let mut many = good();
    many.splice(2..2, (0..20).map(|n| record(false, 5, &[n; 64])));
    assert_eq!(judged(&many).unwrap().len(), FULL);
}

proptest! {
    #[test]
    fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        drop(judge(&bytes, ADDRESS, NAME));
        _ = is_complete(&bytes);
    }

    /// The good answer with one byte bent is the same offer or none.
    #[test]
    fn a_bent_byte_leads_nowhere_else(at in 0_usize..848, to in any::<u8>()) {
        let mut bytes = good().concat();
        let at = at % bytes.len();
        bytes[at] = to;
        if let Ok(cookies) = judge(&bytes, ADDRESS, NAME) {
            prop_assert!(!cookies.is_empty() && cookies.len() <= FULL);
        }
    }
}
