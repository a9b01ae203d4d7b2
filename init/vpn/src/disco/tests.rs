use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn pair() -> (Secret<Disco>, Secret<Disco>, SalsaBox, SalsaBox) {
    let (ours, theirs) = (Secret::new([3; KEY_LEN]), Secret::new([5; KEY_LEN]));
    let (here, there) =
        (shared_box(&ours, &theirs.public()).unwrap(), shared_box(&theirs, &ours.public()).unwrap());
    (ours, theirs, here, there)
}

fn messages() -> impl Strategy<Value = Message> {
    let address = || any::<(IpAddr, u16)>().prop_map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port));
    prop_oneof![
        any::<(TxId, Option<[u8; 32]>)>().prop_map(|(txid, node)| Message::Ping {
            txid,
            node: node.map(Public::new).filter(|key| !key.is_zero())
        }),
        (any::<TxId>(), address()).prop_map(|(txid, source)| Message::Pong { txid, source }),
        vec(address(), 0..=MAX_ENDPOINTS).prop_map(|endpoints| Message::CallMeMaybe { endpoints }),
        (4_u8..).prop_map(Message::Unknown),
    ]
}

#[test]
fn the_bytes_are_those_of_the_protocol() {
    let mut out = Vec::new();
    encode(&Message::Pong { txid: [1; 12], source: "192.0.2.3:258".parse().unwrap() }, &mut out);
    assert_eq!(hex::encode(&out), "020001010101010101010101010100000000000000000000ffffc00002030102");
    out.clear();
    encode(&Message::CallMeMaybe { endpoints: vec!["[2001:db8::1]:1".parse().unwrap()] }, &mut out);
    assert_eq!(hex::encode(&out), "030020010db80000000000000000000000010001");
}

#[test]
fn a_ping_may_be_padded_or_have_no_key() {
    let key = Public::new([8; 32]);
    let mut body = Vec::new();
    encode(&Message::Ping { txid: [2; 12], node: Some(key) }, &mut body);
    body.resize(1200, 0);
    assert_eq!(decode(&body), Ok(Message::Ping { txid: [2; 12], node: Some(key) }));
    assert_eq!(decode(&body[..14]), Ok(Message::Ping { txid: [2; 12], node: None }));
    assert_eq!(decode(&body[..13]), Err(DiscoError::Length(PING)));
}

#[test]
fn limits_and_versions_are_kept() {
    let mut body = vec![CALL_ME_MAYBE, 0];
    body.resize(2 + ENDPOINT_LEN * (MAX_ENDPOINTS + 1), 1);
    assert_eq!(decode(&body), Err(DiscoError::Length(CALL_ME_MAYBE)));
    assert_eq!(decode(&body[..2 + ENDPOINT_LEN + 1]), Err(DiscoError::Length(CALL_ME_MAYBE)));
    assert_eq!(decode(&[PONG, 1]), Err(DiscoError::Version(1)));
    assert_eq!(decode(&[9, 7, 1]), Ok(Message::Unknown(9)));
    assert_eq!(decode(&[1]), Err(DiscoError::NotDisco));
}

#[test]
fn a_message_opens_only_for_whom_it_is_and_unchanged() {
    let (ours, _, here, there) = pair();
    let message = Message::Ping { txid: [4; 12], node: None };
    let mut sealed = Vec::new();
    seal(&message, &ours.public(), &here, &mut sealed).unwrap();
    assert!(looks_like_disco(&sealed));
    assert_eq!(sender(&sealed), Some(ours.public()));
    assert_eq!(open(&sealed, &there), Ok(message));
    let stranger = shared_box(&Secret::new([6; KEY_LEN]), &ours.public()).unwrap();
    assert_eq!(open(&sealed, &stranger), Err(DiscoError::Seal));
    // The sender's key is not covered by the box of this pair, but choosing the box by it is what covers it.
    for at in MAGIC.len() + KEY_LEN..sealed.len() {
        let mut bent = sealed.clone();
        bent[at] ^= 1;
        assert_eq!(open(&bent, &there), Err(DiscoError::Seal), "{at}");
    }
    for len in 0..sealed.len() {
        assert!(open(&sealed[..len], &there).is_err(), "{len}");
    }
    sealed.resize(MAX_LEN + 1, 0);
    assert_eq!(open(&sealed, &there), Err(DiscoError::NotDisco));
}

#[test]
fn the_box_is_laid_out_as_nacl_does() {
    use crypto_box::aead::Aead as _;
    let (ours, _, here, there) = pair();
    let mut sealed = Vec::new();
    seal(&Message::Unknown(9), &ours.public(), &here, &mut sealed).unwrap();
    let (nonce, boxed) = sealed[MAGIC.len() + KEY_LEN..].split_first_chunk::<NONCE_LEN>().unwrap();
    assert_eq!(there.decrypt(&Nonce::<SalsaBox>::from(*nonce), boxed).unwrap(), [9, 0]);
}

#[test]
fn a_key_that_gives_a_known_secret_has_no_box() {
    assert!(shared_box(&Secret::new([3; KEY_LEN]), &Public::zero()).is_none());
}

#[test]
fn only_known_senders_are_opened_and_forgotten_ones_no_more() {
    let (ours, theirs, _, there) = pair();
    let mut boxes = Boxes::new(ours.clone());
    let mut sealed = Vec::new();
    let message = Message::Ping { txid: [4; 12], node: None };
    seal(&message, &theirs.public(), &there, &mut sealed).unwrap();
    assert_eq!(boxes.open(&sealed), Err(Unopened::Stranger));
    boxes.set_known([theirs.public(), Public::zero()]);
    assert_eq!(boxes.open(&sealed), Ok((theirs.public(), message.clone())));
    let mut answer = Vec::new();
    assert_eq!(boxes.seal(&message, &theirs.public(), &mut answer), Ok(true));
    assert_eq!(open(&answer, &there), Ok(message.clone()));
    assert_eq!(boxes.seal(&message, &Public::zero(), &mut answer), Ok(false));
    boxes.set_known([]);
    assert_eq!(boxes.open(&sealed), Err(Unopened::Stranger));
}

proptest! {
    #[test]
    fn a_message_is_read_as_it_is_written(message in messages()) {
        let mut body = Vec::new();
        encode(&message, &mut body);
        prop_assert_eq!(decode(&body), Ok(message.clone()));
        let (ours, _, here, there) = pair();
        let mut sealed = Vec::new();
        seal(&message, &ours.public(), &here, &mut sealed).unwrap();
        prop_assert_eq!(open(&sealed, &there), Ok(message));
    }

    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..200), magic: bool) {
        let (_, _, here, _) = pair();
        let mut packet = if magic { MAGIC.to_vec() } else { Vec::new() };
        packet.extend(&bytes);
        let _read = (open(&packet, &here), sender(&packet), classify(&packet), decode(&bytes));
    }
}
