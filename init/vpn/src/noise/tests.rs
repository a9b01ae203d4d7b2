#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on may panic")]

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::early::{self, Early, EarlyError, Head};
use super::record::{MAX_CIPHERTEXT, MAX_PLAINTEXT};
use super::*;
use crate::key::{Machine, Public, Secret};

/// Made by an independent implementation (Python's `cryptography`) from the private keys 11…, 22… and 33…; the responder's
/// ephemeral is 44….
const INITIATION: &str = "00820100607b0d47d93427f8311160781c7c733fd89f88970aef490d8aa0ee19a4cb8a1b1461d2949213e755bc180b5d5\
                          dbbd8c50a2a1beb69f8940d24cab4606a34cd5d41d3436702f1e655d68edaf704e1f548b714f83a929d0d0448498ccd808\
                          f757285";
const RESPONSE: &str =
    "020030ff2ee45601ec1b67310c7790404585ae697331eee1c1f8cf2419731c1fff3e6be3f6ce89a1966bab3d8310c9a165b36e";
/// The records "first", "" and "third" of the initiator.
const SENT: &str = "04001583b2d6e86c932e6b40107a5b1c7ba360aa2c7bc0fd040010b9fa36b547aa650d6932bc188d2cbb7b0400155b2ac2d1930c06acd8ff105af3af241fcabae79c54";
/// The records "answer" and "more" of the responder.
const RECEIVED: &str =
    "04001605d2f95fbf0e4647214058b071a9b571e862bb45f2d604001472384e3b970dd02f076330ed81b3d659a23e0d2c";

fn pair() -> (Tunnel, Tunnel) {
    let (machine, server) = (Secret::generate().unwrap(), Secret::generate().unwrap());
    let (initiator, initiation) = Initiator::start(130, &machine, &server.public()).unwrap();
    let accepted = respond(&server, &initiation).unwrap();
    assert_eq!((accepted.version, accepted.machine), (130, machine.public()));
    (initiator.finish(&accepted.response).unwrap(), accepted.tunnel)
}

fn records(sealer: &mut Sealer, plain: &[u8]) -> BytesMut {
    let (mut wire, mut at) = (BytesMut::new(), 0);
    while at < plain.len() {
        at += sealer.seal(&plain[at..], &mut wire).unwrap();
    }
    wire
}

#[test]
fn an_independent_implementation_gives_the_same_bytes() {
    let key = |byte| Secret::<Machine>::new([byte; 32]);
    let (initiator, initiation) =
        Initiator::start_with(130, &key(0x11), &key(0x22).public(), key(0x33)).unwrap();
    assert_eq!(hex::encode(initiation), INITIATION.replace(char::is_whitespace, ""));
    let mut tunnel = initiator.finish(&hex::decode(RESPONSE).unwrap().try_into().unwrap()).unwrap();
    let mut sent = BytesMut::new();
    for plain in [&b"first"[..], b"", b"third"] {
        assert_eq!(tunnel.sealer.seal(plain, &mut sent), Ok(plain.len()));
    }
    assert_eq!(hex::encode(sent), SENT);
    let mut received = BytesMut::from(&hex::decode(RECEIVED).unwrap()[..]);
    assert_eq!(tunnel.opener.open(&mut received).unwrap().unwrap(), &b"answer"[..]);
    assert_eq!(tunnel.opener.open(&mut received).unwrap().unwrap(), &b"more"[..]);
    assert_eq!(tunnel.opener.open(&mut received), Ok(None));
}

#[test]
fn a_handshake_opens_only_as_it_was_sent() {
    let (machine, server) = (Secret::generate().unwrap(), Secret::<Machine>::generate().unwrap());
    let (_, initiation) = Initiator::start(130, &machine, &server.public()).unwrap();
    for at in 0..INITIATION_LEN {
        let mut other = initiation;
        other[at] ^= 1;
        assert!(respond(&server, &other).is_err(), "byte {at}");
    }
    assert!(matches!(respond(&machine, &initiation), Err(HandshakeError::Sealed)), "another server's key");
    for at in 0..RESPONSE_LEN {
        let (initiator, initiation) = Initiator::start(130, &machine, &server.public()).unwrap();
        let mut response = respond(&server, &initiation).unwrap().response;
        response[at] ^= 1;
        assert!(initiator.finish(&response).is_err(), "byte {at}");
    }
    let weak = Initiator::start(130, &machine, &Public::zero());
    assert!(matches!(weak, Err(HandshakeError::WeakKey)));
}

#[test]
fn records_come_out_as_they_went_in_however_they_are_cut() {
    let (mut ours, mut theirs) = pair();
    for len in [1, 5, MAX_PLAINTEXT, MAX_PLAINTEXT + 1, 3 * MAX_PLAINTEXT + 7] {
        let plain: Vec<u8> = (0..=250).cycle().take(len).collect();
        let wire = records(&mut ours.sealer, &plain);
        for header in wire.chunks(MAX_CIPHERTEXT + 3) {
            assert!(u16::from_be_bytes([header[1], header[2]]) as usize <= MAX_CIPHERTEXT);
        }
        let (mut received, mut out) = (BytesMut::new(), Vec::new());
        for byte in wire {
            received.extend_from_slice(&[byte]);
            if let Some(plain) = theirs.opener.open(&mut received).unwrap() {
                out.extend_from_slice(&plain);
            }
        }
        assert!(received.is_empty());
        assert_eq!(out, plain);
    }
}

#[test]
fn what_is_no_record_ends_the_tunnel() {
    let open = |bytes: &[u8]| pair().1.opener.open(&mut BytesMut::from(bytes));
    assert_eq!(open(b""), Ok(None));
    assert_eq!(open(&[4, 0]), Ok(None));
    assert_eq!(open(&[4, 0, 16, 1, 2]), Ok(None));
    assert_eq!(open(&[3, 0, 16]), Err(RecordError::Type(3)));
    assert_eq!(open(&[4, 0, 15]), Err(RecordError::Length(15)));
    assert_eq!(open(&[4, 0x0f, 0xfe]), Err(RecordError::Length(MAX_CIPHERTEXT + 1)));
    assert_eq!(open(&[4, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Err(RecordError::Sealed));

    let (mut ours, mut theirs) = pair();
    let first = records(&mut ours.sealer, b"first");
    let mut second = records(&mut ours.sealer, b"second");
    assert_eq!(theirs.opener.open(&mut second), Err(RecordError::Sealed), "out of order");
    drop(first);
}

proptest! {
    #[test]
    fn no_bytes_make_the_opener_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), head in any::<bool>()) {
        let mut received = BytesMut::from(&bytes[..]);
        if head && received.len() > 2 {
            received[0] = 4;
            received[1] = 0;
        }
        let mut opener = Opener::new(&[1; 32]).unwrap();
        while let Ok(Some(_)) = opener.open(&mut received) {}
    }
}

/// A writer that counts its calls.
struct Counting {
    writes: usize,
    bytes: Vec<u8>,
}

impl AsyncWrite for Counting {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.writes += 1;
        self.bytes.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn writes_are_sent_together_at_the_flush() {
    let (ours, mut theirs) = pair();
    let mut stream = NoiseStream::new(Counting { writes: 0, bytes: Vec::new() }, ours, BytesMut::new());
    let plain = vec![7; 3000];
    for _ in 0..10 {
        stream.write_all(&plain).await.unwrap();
    }
    stream.flush().await.unwrap();
    let counting = stream.into_inner();
    assert_eq!(counting.writes, 1);
    let (mut received, mut len) = (BytesMut::from(&counting.bytes[..]), 0);
    while let Some(plain) = theirs.opener.open(&mut received).unwrap() {
        len += plain.len();
    }
    assert_eq!(len, 30_000);
}

#[tokio::test]
async fn a_stream_passes_what_is_read_ahead_and_empty_records_and_says_how_it_ended() {
    let (mut ours, theirs) = pair();
    let mut ahead = records(&mut ours.sealer, b"ahead ");
    ours.sealer.seal(&[], &mut ahead).unwrap();
    let mut rest = records(&mut ours.sealer, b"then more");
    let truncated = records(&mut ours.sealer, b"lost");
    rest.extend_from_slice(&truncated[..truncated.len() - 1]);
    let mut stream = NoiseStream::new(&rest[..], theirs, ahead);
    let mut text = [0; 15];
    stream.read_exact(&mut text).await.unwrap();
    assert_eq!(&text, b"ahead then more");
    let error = stream.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(error.get_ref().unwrap().to_string(), RecordError::Truncated.to_string());

    let (_, theirs) = pair();
    let mut stream = NoiseStream::new(&b""[..], theirs, BytesMut::new());
    assert_eq!(stream.read(&mut text).await.unwrap(), 0);
}

#[test]
fn the_head_says_whether_a_payload_follows() {
    assert_eq!(early::head(b"\xff\xff\xffTS\0\0\0\x05").unwrap(), Head::Payload(5));
    assert_eq!(early::head(b"\0\0\x12\x04\0\0\0\0\0").unwrap(), Head::Absent);
    assert!(matches!(early::head(b"\xff\xff\xffTS\0\x01\0\x01"), Err(EarlyError::Length(65_537))));
}

#[tokio::test]
async fn the_early_payload_may_come_in_any_pieces_or_not_at_all() {
    let payload =
        br#"{"nodeKeyChallenge":"chalpub:82aabb4b953916abee8c6e234088d7c524cffc926dc30afc6c2b768956cbd652"}"#;
    let mut plain = b"\xff\xff\xffTS".to_vec();
    plain.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes());
    plain.extend_from_slice(payload);
    plain.extend_from_slice(b"http2");
    for piece in [1, 2, 4, 9, 10, plain.len()] {
        let (mut ours, theirs) = pair();
        let mut wire = BytesMut::new();
        for piece in plain.chunks(piece) {
            wire.extend_from_slice(&records(&mut ours.sealer, piece));
        }
        let mut stream = NoiseStream::new(&wire[..], theirs, BytesMut::new());
        let early: Early = early::read(&mut stream).await.unwrap().unwrap();
        assert!(early.challenge.unwrap().to_string().starts_with("chalpub:82aabb"));
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "http2", "in pieces of {piece}");
    }
    let (mut ours, theirs) = pair();
    let wire = records(&mut ours.sealer, b"PRI * HTTP/2.0");
    let mut stream = NoiseStream::new(&wire[..], theirs, BytesMut::new());
    assert_eq!(early::read(&mut stream).await.unwrap(), None);
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "PRI * HTTP/2.0");

    for (bad, expected) in
        [(&b"\xff\xff\xffTS\0\0\0\x02{"[..], "reading"), (b"\xff\xff\xffTS\0\0\0\x02{]", "does not read")]
    {
        let (mut ours, theirs) = pair();
        let wire = records(&mut ours.sealer, bad);
        let mut stream = NoiseStream::new(&wire[..], theirs, BytesMut::new());
        let error = early::read(&mut stream).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
