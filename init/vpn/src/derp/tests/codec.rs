//! Frames and the greeting, without a network.

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::frame::{Decoder, Frame, FrameError, GoneReason, MAX_INFO, MAX_OTHER, MAX_PACKET, encode};
use super::super::handshake::{
    HandshakeError, ServerInfo, client_info, read_client_info, read_server_info, server_info,
};
use crate::key::{Node, Public, Secret};

fn frames() -> impl Strategy<Value = Frame> {
    let key = || any::<[u8; 32]>().prop_map(Public::<Node>::new);
    let packet = || vec(any::<u8>(), 0..2000).prop_map(Bytes::from);
    let reason = prop_oneof![
        Just(GoneReason::Disconnected),
        Just(GoneReason::NotHere),
        (2_u8..).prop_map(GoneReason::Other)
    ];
    prop_oneof![
        key().prop_map(Frame::ServerKey),
        (key(), packet()).prop_map(|(key, sealed)| Frame::ClientInfo { key, sealed }),
        packet().prop_map(Frame::ServerInfo),
        (key(), packet()).prop_map(|(to, packet)| Frame::SendPacket { to, packet }),
        (key(), packet()).prop_map(|(from, packet)| Frame::RecvPacket { from, packet }),
        Just(Frame::KeepAlive),
        any::<bool>().prop_map(Frame::NotePreferred),
        (key(), reason).prop_map(|(peer, reason)| Frame::PeerGone { peer, reason }),
        any::<[u8; 8]>().prop_map(Frame::Ping),
        any::<[u8; 8]>().prop_map(Frame::Pong),
        "[a-z ]{0,40}".prop_map(Frame::Health),
        any::<(u32, u32)>()
            .prop_map(|(after_millis, try_for_millis)| Frame::Restarting { after_millis, try_for_millis }),
        prop_oneof![Just(0x09), Just(0x0a), Just(0x10), 0x16_u8..].prop_map(Frame::Unknown),
    ]
}

proptest! {
    #[test]
    fn frames_are_read_as_they_are_written_however_they_are_cut(
        frames in vec(frames(), 0..10),
        cuts in vec(1_usize..3000, 1..20),
    ) {
        let mut stream = BytesMut::new();
        for frame in &frames {
            encode(frame, &mut stream);
        }
        let mut decoder = Decoder::default();
        let mut read = Vec::new();
        for cut in cuts.into_iter().cycle() {
            let cut = cut.min(stream.len());
            decoder.buffer().extend_from_slice(&stream.split_to(cut));
            while let Some(frame) = decoder.next_frame().unwrap() {
                read.push(frame);
            }
            if stream.is_empty() {
                break;
            }
        }
        prop_assert_eq!(read, frames);
    }

    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..400)) {
        let mut decoder = Decoder::default();
        decoder.buffer().extend_from_slice(&bytes);
        while let Ok(Some(_)) = decoder.next_frame() {}
    }
}

#[test]
fn the_bytes_are_those_of_the_protocol() {
    let cases = [
        (Frame::NotePreferred(true), "070000000101".to_owned()),
        (Frame::KeepAlive, "0600000000".to_owned()),
        (Frame::Pong(*b"abcdefgh"), "13000000086162636465666768".to_owned()),
        (Frame::ServerKey(Public::new([0xaa; 32])), format!("010000002844455250f09f9491{}", "aa".repeat(32))),
        (
            Frame::SendPacket { to: Public::new([1; 32]), packet: Bytes::from_static(b"x") },
            format!("0400000021{}78", "01".repeat(32)),
        ),
    ];
    for (frame, hex) in cases {
        let mut out = BytesMut::new();
        encode(&frame, &mut out);
        assert_eq!(hex::encode(&out), hex);
    }
}

fn read(bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
    let mut decoder = Decoder::default();
    decoder.buffer().extend_from_slice(bytes);
    decoder.next_frame()
}

#[test]
fn lengths_are_bounded_before_anything_is_kept() {
    let head = |kind: u8, len: usize| [&[kind][..], &u32::try_from(len).unwrap().to_be_bytes()].concat();
    let packet = MAX_PACKET + 32;
    assert_eq!(read(&head(5, packet)), Ok(None));
    assert_eq!(read(&head(5, packet + 1)), Err(FrameError::TooLong { kind: 5, len: packet + 1 }));
    assert_eq!(read(&head(0x14, MAX_INFO + 1)), Err(FrameError::TooLong { kind: 0x14, len: MAX_INFO + 1 }));
    assert!(matches!(read(&[0xee, 0xff, 0xff, 0xff, 0xff]), Err(FrameError::TooLong { kind: 0xee, .. })));
    for (kind, len) in [(1, 39), (2, 31), (4, 31), (5, 0), (7, 0), (8, 31), (0x12, 7), (0x13, 0), (0x15, 7)] {
        let mut bytes = head(kind, len);
        bytes.extend(b"DERP\xf0\x9f\x94\x91".iter().chain(&[0; 100]).take(len));
        assert_eq!(read(&bytes), Err(FrameError::TooShort { kind }), "{kind}");
    }
    let mut magic = head(1, 40);
    magic.extend([7; 40]);
    assert_eq!(read(&magic), Err(FrameError::Magic));
}

#[test]
fn after_the_greeting_only_packets_are_long() {
    let after = |kind: u8, len: usize| {
        let mut decoder = Decoder::default();
        decoder.greeted();
        decoder.buffer().extend_from_slice(&[kind]);
        decoder.buffer().extend_from_slice(&u32::try_from(len).unwrap().to_be_bytes());
        decoder.next_frame()
    };
    assert_eq!(after(5, MAX_PACKET + 32), Ok(None));
    for kind in [1, 2, 3, 6, 8, 0x12, 0x13, 0x14, 0x15] {
        assert_eq!(after(kind, MAX_OTHER), Ok(None), "{kind}");
        let len = MAX_OTHER + 1;
        assert_eq!(after(kind, len), Err(FrameError::TooLong { kind, len }));
    }
    // What we do not know is not held, however long it is.
    assert_eq!(after(0x77, MAX_INFO), Ok(Some(Frame::Unknown(0x77))));
}

#[test]
fn what_follows_a_known_payload_is_ignored_and_an_unknown_frame_is_not_kept() {
    let mut longer = BytesMut::new();
    encode(&Frame::ServerKey(Public::new([3; 32])), &mut longer);
    longer[4] += 2;
    longer.extend_from_slice(b"zz");
    assert_eq!(read(&longer), Ok(Some(Frame::ServerKey(Public::new([3; 32])))));

    let mut decoder = Decoder::default();
    decoder.buffer().extend_from_slice(&[0x77, 0, 0x10, 0, 0]);
    assert_eq!(decoder.next_frame(), Ok(Some(Frame::Unknown(0x77))));
    for _ in 0..256 {
        assert_eq!(decoder.next_frame(), Ok(None));
        decoder.buffer().extend_from_slice(&[9; 4096]);
    }
    encode(&Frame::KeepAlive, decoder.buffer());
    assert_eq!(decoder.next_frame(), Ok(Some(Frame::KeepAlive)));
    assert!(decoder.buffer().is_empty());
}

#[test]
fn the_greeting_opens_only_for_its_two_sides() {
    let [client, server, other] = [5, 6, 7].map(|byte| Secret::<Node>::new([byte; 32]));
    let Frame::ClientInfo { key, sealed } = client_info(&client, &server.public()).unwrap() else { panic!() };
    let info = read_client_info(&server, &key, &sealed).unwrap();
    assert_eq!((key, info.version, info.can_ack_pings), (client.public(), 2, true));
    assert_eq!(read_client_info(&server, &other.public(), &sealed), Err(HandshakeError::Seal));
    assert_eq!(read_client_info(&server, &key, &sealed[..20]), Err(HandshakeError::Seal));
    let said = ServerInfo { version: 2, bytes_per_second: 5, bytes_burst: 9 };
    let Frame::ServerInfo(sealed) = server_info(&server, &key, &said).unwrap() else { panic!() };
    assert_eq!(read_server_info(&client, &server.public(), &sealed), Ok(said));
    assert_eq!(read_server_info(&other, &server.public(), &sealed), Err(HandshakeError::Seal));
    assert_eq!(client_info(&client, &Public::zero()), Err(HandshakeError::WeakKey));
}
