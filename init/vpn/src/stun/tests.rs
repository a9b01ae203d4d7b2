use proptest::prelude::*;

use super::*;

const RECORDED_REQUEST: &[u8] = include_bytes!("../../tests/fixtures/stun-request.bin");

/// From Headscale 0.29.2 on loopback, to port 45607.
const RECORDED_RESPONSE: &[u8] = include_bytes!("../../tests/fixtures/stun-response.bin");

#[test]
fn the_recorded_answer_is_read_and_is_what_we_would_say() {
    let from = "127.0.0.1:45607".parse().unwrap();
    assert_eq!(parse_response(RECORDED_RESPONSE), Ok(([7; TXID_LEN], from)));
    assert_eq!(response(&[7; TXID_LEN], from), RECORDED_RESPONSE);
}

#[test]
fn the_request_is_the_recorded_one() {
    let txid = parse_request(RECORDED_REQUEST).unwrap();
    assert_eq!(request(&txid).as_slice(), RECORDED_REQUEST);
    let mut broken = RECORDED_REQUEST.to_vec();
    broken[30] ^= 1;
    assert_eq!(parse_request(&broken), Err(StunError::Fingerprint));
    assert_eq!(parse_response(RECORDED_REQUEST), Err(StunError::NotSuccess(1)));
}

#[test]
fn the_vectors_of_rfc_5769_are_read() {
    // RFC 5769 sections 2.2 and 2.3: SOFTWARE "test vector", XOR-MAPPED-ADDRESS, MESSAGE-INTEGRITY, FINGERPRINT.
    let v4 = hex::decode(concat!(
        "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220",
        "002000080001a147e112a643000800142b91f599fd9e90c38c7489f92af9ba53f06be7d7",
        "80280004c07d4c96"
    ))
    .unwrap();
    assert_eq!(parse_response(&v4).unwrap().1, "192.0.2.1:32853".parse().unwrap());
    let v6 = hex::decode(concat!(
        "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220",
        "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d900080014a382954e4be67bf1",
        "1784c97c8292c275bfe3ed4180280004c8fb0b4c"
    ))
    .unwrap();
    let wanted = "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap();
    assert_eq!(parse_response(&v6).unwrap().1, wanted);
}

#[test]
fn the_older_attributes_are_read_and_the_xored_one_wins() {
    let txid = [9; TXID_LEN];
    let mut packet = Vec::new();
    header(&mut packet, BINDING_SUCCESS, &txid);
    attribute(&mut packet, ATTR_MAPPED, &[0, 1, 0x10, 0, 10, 0, 0, 1]);
    assert_eq!(parse_response(&packet), Ok((txid, "10.0.0.1:4096".parse().unwrap())));
    let xored = response(&txid, "203.0.113.9:41641".parse().unwrap());
    attribute(&mut packet, ATTR_XOR_MAPPED_OLD, &xored[24..]);
    assert_eq!(parse_response(&packet), Ok((txid, "203.0.113.9:41641".parse().unwrap())));
}

#[test]
fn what_is_no_answer_is_named() {
    let good = response(&[1; TXID_LEN], "[2001:db8::1]:9".parse().unwrap());
    for len in 0..good.len() {
        assert_eq!(parse_response(&good[..len]), Err(StunError::NotStun), "{len}");
    }
    let mut long = good.clone();
    long[23] = 40;
    assert_eq!(parse_response(&long), Err(StunError::Truncated));
    let mut family = good;
    family[25] = 7;
    assert_eq!(parse_response(&family), Err(StunError::NoAddress));
    for nowhere in ["0.0.0.0:9", "[::]:9", "[::ffff:0.0.0.0]:9", "192.0.2.1:0"] {
        let answer = response(&[1; TXID_LEN], nowhere.parse().unwrap());
        assert_eq!(parse_response(&answer), Err(StunError::NoAddress), "{nowhere}");
    }
}

proptest! {
    #[test]
    fn an_answer_is_read_as_it_is_written(txid: TxId, ip: IpAddr, port in 1_u16..) {
        prop_assume!(!ip.is_unspecified() && ip.to_canonical() == ip);
        let from = SocketAddr::new(ip, port);
        prop_assert_eq!(parse_response(&response(&txid, from)), Ok((txid, from)));
        prop_assert_eq!(parse_request(&request(&txid)), Ok(txid));
    }

    #[test]
    fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), fix: bool) {
        if fix && bytes.len() >= HEADER_LEN {
            bytes[..2].copy_from_slice(&BINDING_SUCCESS.to_be_bytes());
            bytes[4..8].copy_from_slice(&COOKIE.to_be_bytes());
            set_len(&mut bytes, 0);
        }
        let _read = parse_response(&bytes);
        let _read = parse_request(&bytes);
    }
}
