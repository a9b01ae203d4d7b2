#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use proptest::prelude::*;

use super::*;

fn nets() -> Vec<IpNet> {
    ["100.64.0.7/32", "fd7a:115c:a1e0::7/128", "0.0.0.0/0", "::/0"].map(|text| text.parse().unwrap()).to_vec()
}

fn report() -> Report {
    Report {
        standing: Standing::Running,
        connected: true,
        key: [7; 32],
        peers: 300,
        direct: 12,
        home: 999,
        domain: "t.internal".to_owned(),
        name: "node-1".to_owned(),
        tags: vec!["tag:internal-only".to_owned(), "tag:b".to_owned()],
    }
}

#[test]
fn what_is_encoded_comes_back() {
    for count in 0..=4 {
        let request = SetNetwork { sequence: 0x8000_0001, addresses: nets()[..count].to_vec() };
        assert_eq!(SetNetwork::decode(&request.encode().unwrap()), Ok(request));
    }
    for outcome in [Ok(())].into_iter().chain(Refusal::ALL.map(Err)) {
        let answer = Answer { sequence: 7, outcome };
        assert_eq!(Answer::decode(&answer.encode()), Ok(answer));
    }
    for report in [report(), Report::default()] {
        assert_eq!(Report::decode(&report.encode().unwrap()), Ok(report));
    }
    for standing in Standing::ALL {
        let report = Report { standing, ..report() };
        assert_eq!(Report::decode(&report.encode().unwrap()).unwrap().standing, standing);
    }
    assert_eq!(Message::decode(KEPT), Ok(Message::Kept));
}

#[test]
fn more_addresses_than_there_is_room_for_are_no_message() {
    let addresses = vec![nets()[0]; ADDRESSES + 1];
    assert_eq!(SetNetwork { sequence: 0, addresses }.encode(), None);
}

#[test]
fn what_has_no_room_or_is_not_plain_is_left_out_of_a_report() {
    let long = "a".repeat(TEXT + 1);
    let odd = Report {
        name: long.clone(),
        tags: vec!["tag:ok".to_owned(), "tag:\u{1b}[2J".to_owned(), String::new(), long],
        ..report()
    };
    let read = Report::decode(&odd.encode().unwrap()).unwrap();
    assert_eq!((read.name.as_str(), read.tags), ("", vec!["tag:ok".to_owned()]));
    for domain in
        ["", "a\nnameserver 192.0.2.1", "a..b", ".a", "a.", "A.b", "a b", &"a".repeat(64), &"ab.".repeat(85)]
    {
        let odd = Report { domain: domain.to_owned(), ..report() };
        assert_eq!(Report::decode(&odd.encode().unwrap()).unwrap().domain, "", "{domain}");
    }
    let longest = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".");
    let long = Report { domain: longest.clone(), ..report() };
    assert_eq!(Report::decode(&long.encode().unwrap()).unwrap().domain, longest);
    // What a node that was taken over may send.
    let mut bytes = report().encode().unwrap();
    let at = bytes.windows(3).position(|three| three == b"t.i").unwrap();
    bytes[at + 1] = b'\n';
    assert_eq!(Report::decode(&bytes), Err(Malformed));
    let many = Report { tags: vec!["tag:a".to_owned(); TAGS + 3], ..report() };
    assert_eq!(Report::decode(&many.encode().unwrap()).unwrap().tags.len(), TAGS);
}

#[test]
fn anything_else_is_malformed() {
    let good = SetNetwork { sequence: 1, addresses: nets() }.encode().unwrap();
    let changed = |at: usize, to: u8| {
        let mut bytes = good;
        bytes[at] = to;
        SetNetwork::decode(&bytes)
    };
    assert!(changed(1, 4).is_ok());
    // Kind; a count that is larger, or smaller than what is there; padding; family; prefix length; bytes behind an IPv4 address.
    for (at, to) in
        [(0, b'n'), (1, 9), (1, 5), (1, 3), (2, 1), (8, 5), (9, 33), (17, 1), (SetNetwork::LEN - 1, 1)]
    {
        assert_eq!(changed(at, to), Err(Malformed), "{at} {to}");
    }
    assert_eq!(SetNetwork::decode(&good[..SetNetwork::LEN - 1]), Err(Malformed));
    assert_eq!(Answer::decode(b"n\xff\0\0\0\0\0\0"), Err(Malformed));
    assert_eq!(Answer::decode(b"n\0\0\x01\0\0\0\0"), Err(Malformed));
    let good = report().encode().unwrap();
    let name = 4 + 32 + 12;
    for (at, to) in
        [(1, 7), (2, 2), (3, 9), (3, 1), (name, 68), (name, 5), (name + 1, 0x1b), (name + TEXT, b'x')]
    {
        let mut bytes = good;
        bytes[at] = to;
        assert_eq!(Report::decode(&bytes), Err(Malformed), "{at} {to}");
    }
    for bytes in [&b""[..], b"R", b"H", b"KK", b"N", b"V"] {
        assert_eq!(Message::decode(bytes), Err(Malformed));
    }
}

proptest! {
    #[test]
    fn what_is_accepted_is_what_its_reading_encodes_to(mut bytes in proptest::collection::vec(any::<u8>(), SetNetwork::LEN), kind in any::<bool>()) {
        if kind { bytes[0] = b'N'; bytes[1] %= 9; bytes[2] = 0; bytes[3] = 0; }
        if let Ok(request) = SetNetwork::decode(&bytes) {
            prop_assert_eq!(&request.encode().unwrap()[..], &bytes[..]);
        }
    }

    #[test]
    fn no_bytes_are_too_odd_to_be_refused(bytes in proptest::collection::vec(any::<u8>(), 0..Report::LEN + 8), first in prop_oneof![Just(b'V'), Just(b'N'), Just(b'L'), Just(b'K')]) {
        let mut bytes = bytes;
        if let Some(byte) = bytes.first_mut() { *byte = first; }
        drop(Message::decode(&bytes));
    }
}

#[test]
fn where_the_servers_name_leads_comes_back_and_nothing_else_does() {
    let addresses: Vec<Ipv4Addr> = (0..8).map(|n| Ipv4Addr::new(192, 0, 2, n)).collect();
    for count in 0..=SERVERS {
        let request = SetServer { sequence: 0x8000_0001, addresses: addresses[..count].to_vec() };
        let bytes = request.encode().unwrap();
        assert_eq!(Message::decode(&bytes), Ok(Message::SetServer(request)));
    }
    assert_eq!(SetServer { sequence: 0, addresses: vec![Ipv4Addr::LOCALHOST; SERVERS + 1] }.encode(), None);
    let good = SetServer { sequence: 1, addresses: addresses[..3].to_vec() }.encode().unwrap();
    // A count that is larger than there is room for, or smaller than what is there; padding; bytes behind the last address.
    for (at, to) in [(0, b'l'), (1, 9), (1, 2), (2, 1), (3, 1), (SetServer::LEN - 1, 1)] {
        let mut bytes = good;
        bytes[at] = to;
        assert_eq!(SetServer::decode(&bytes), Err(Malformed), "{at} {to}");
    }
    assert_eq!(SetServer::decode(&good[..SetServer::LEN - 1]), Err(Malformed));
    assert_eq!(Message::decode(&[&good[..], &[0]].concat()), Err(Malformed));
}
