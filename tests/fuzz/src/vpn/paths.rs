//! Relays, and the datagrams that find paths.

use bytes::BytesMut;
use casemate_vpn::derp::frame::{Decoder, Frame, FrameError, MAX_OTHER, encode};
use casemate_vpn::derp::handshake::{ClientInfo, ServerInfo, read_client_info, read_server_info};
use casemate_vpn::disco::{self, Boxes, Kind, MAX_ENDPOINTS, MAX_LEN, Message, classify};
use casemate_vpn::key::{Disco, Node, Secret};
use casemate_vpn::stun;

use super::is_canonical;
use crate::Verdict;

const OURS: [u8; 32] = [3; 32];
const THEIRS: [u8; 32] = [5; 32];

/// `F`, the size of pieces, and a relay's stream; `C` or `S` and the box of a client's or a server's info; `J` and the JSON inside.
///
/// The stream has the same frames in pieces of any size, no more in them than was sent, and each is written as what is read as the
/// same. After the greeting it has the same again, up to one that is longer than what is taken then. No box opens but the genuine one.
pub(crate) fn derp(input: &[u8]) -> Verdict {
    let Some((kind, bytes)) = input.split_first() else { return Verdict::Refused };
    let (ours, theirs) = (Secret::<Node>::new(OURS), Secret::<Node>::new(THEIRS));
    match kind {
        b'F' => relayed(bytes),
        b'S' => {
            let info = read_server_info(&ours, &theirs.public(), bytes);
            assert!(info.is_err() || input == include_bytes!("../../seeds/derp/server-info"), "a forged box");
            Verdict::accepted(info.is_ok())
        }
        b'C' => {
            let info = read_client_info(&ours, &theirs.public(), bytes);
            assert!(info.is_err() || input == include_bytes!("../../seeds/derp/client-info"), "a forged box");
            Verdict::accepted(info.is_ok())
        }
        b'J' => {
            let server = serde_json::from_slice::<ServerInfo>(bytes).ok();
            let client = serde_json::from_slice::<ClientInfo>(bytes).ok();
            let again = server.as_ref().and_then(|info| serde_json::to_vec(info).ok());
            assert_eq!(again.and_then(|json| serde_json::from_slice(&json).ok()), server);
            let again = client.as_ref().and_then(|info| serde_json::to_vec(info).ok());
            assert_eq!(again.and_then(|json| serde_json::from_slice(&json).ok()), client);
            Verdict::accepted(server.is_some())
        }
        _ => Verdict::Refused,
    }
}

/// The frames, and what ended them.
fn cut(mut decoder: Decoder, size: usize, bytes: &[u8]) -> (Vec<Frame>, Option<FrameError>) {
    let mut frames = Vec::new();
    for piece in bytes.chunks(size.max(1)) {
        decoder.buffer().extend_from_slice(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

fn relayed(input: &[u8]) -> Verdict {
    let Some((size, bytes)) = input.split_first() else { return Verdict::Refused };
    let (frames, end) = cut(Decoder::default(), usize::from(*size), bytes);
    let whole = cut(Decoder::default(), bytes.len(), bytes);
    assert_eq!(whole, (frames.clone(), end), "other frames in other pieces");
    let mut greeted = Decoder::default();
    greeted.greeted();
    let (later, refused) = cut(greeted, usize::from(*size), bytes);
    assert!(frames.starts_with(&later), "other frames after the greeting");
    assert!(refused == end || matches!(refused, Some(FrameError::TooLong { len, .. }) if len > MAX_OTHER));
    let mut payloads = 0;
    for frame in &frames {
        let mut written = BytesMut::new();
        encode(frame, &mut written);
        payloads += match frame {
            Frame::ClientInfo { sealed, .. } | Frame::ServerInfo(sealed) => sealed.len(),
            Frame::SendPacket { packet, .. } | Frame::RecvPacket { packet, .. } => packet.len(),
            // What is no text became three bytes for each of its own, at most.
            Frame::Health(text) => text.len() / 3,
            _ => 0,
        };
        let mut decoder = Decoder::default();
        decoder.buffer().extend_from_slice(&written);
        assert_eq!(decoder.next_frame(), Ok(Some(frame.clone())));
        assert!(decoder.buffer().is_empty());
    }
    assert!(payloads <= bytes.len(), "{payloads} bytes of {}", bytes.len());
    Verdict::accepted(frames.iter().any(|frame| !matches!(frame, Frame::Unknown(_))))
}

/// `W` and a datagram, or `B` and what is inside of a disco message.
///
/// Each datagram is of one kind, and what reads as one kind is of it. What is read is written as what is read as the same, and a
/// message that nobody sealed for us does not open.
pub(crate) fn datagram(input: &[u8]) -> Verdict {
    match input.split_first() {
        Some((b'W', packet)) => received(packet),
        Some((b'B', body)) => opened(body),
        _ => Verdict::Refused,
    }
}

fn received(packet: &[u8]) -> Verdict {
    const AUTHENTIC: &[u8] = include_bytes!("../../seeds/datagram/ping");
    let kind = classify(packet);
    let mut boxes = Boxes::new(Secret::new(OURS));
    boxes.set_known([Secret::<Disco>::new(THEIRS).public()]);
    if let Ok((from, _)) = boxes.open(packet) {
        assert_eq!(AUTHENTIC.get(1..), Some(packet), "a forged message was opened");
        assert_eq!((kind, Some(from)), (Kind::Disco, disco::sender(packet)));
    }
    assert_eq!(kind == Kind::Disco, disco::looks_like_disco(packet));
    let mut accepted = matches!(kind, Kind::Disco | Kind::WireGuard | Kind::Geneve);
    if let Ok(txid) = stun::parse_request(packet) {
        accepted = true;
        assert_eq!(kind, Kind::Stun);
        assert!(packet.len() >= stun::REQUEST_LEN);
        assert_eq!(stun::parse_request(&stun::request(&txid)), Ok(txid));
        assert!(stun::parse_response(packet).is_err(), "a request and an answer");
    }
    if let Ok((txid, address)) = stun::parse_response(packet) {
        accepted = true;
        assert_eq!(kind, Kind::Stun);
        assert!(is_canonical(address.ip()) && address.port() != 0, "{address}");
        let again = stun::parse_response(&stun::response(&txid, address));
        assert_eq!(again, Ok((txid, address)));
    }
    Verdict::accepted(accepted)
}

fn opened(body: &[u8]) -> Verdict {
    let Ok(message) = disco::decode(body) else { return Verdict::Refused };
    match &message {
        Message::CallMeMaybe { endpoints } => {
            assert!(endpoints.len() <= MAX_ENDPOINTS && endpoints.len() * 18 <= body.len());
            assert!(endpoints.iter().all(|address| is_canonical(address.ip())));
        }
        Message::Pong { source, .. } => assert!(is_canonical(source.ip())),
        Message::Ping { .. } | Message::Unknown(_) => {}
    }
    let mut written = Vec::new();
    disco::encode(&message, &mut written);
    assert!(written.len() <= body.len());
    assert_eq!(disco::decode(&written), Ok(message.clone()));
    let (ours, theirs) = (Secret::<Disco>::new(OURS), Secret::<Disco>::new(THEIRS));
    let (mut here, mut there) = (Boxes::new(ours.clone()), Boxes::new(theirs.clone()));
    here.set_known([theirs.public()]);
    there.set_known([ours.public()]);
    let mut sealed = Vec::new();
    assert_eq!(here.seal(&message, &theirs.public(), &mut sealed), Ok(true));
    assert!(sealed.len() <= MAX_LEN && classify(&sealed) == Kind::Disco);
    assert_eq!(there.open(&sealed), Ok((ours.public(), message.clone())));
    Verdict::accepted(!matches!(message, Message::Unknown(_)))
}
