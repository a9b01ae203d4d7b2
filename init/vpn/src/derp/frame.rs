//! DERP's frames: a type, a length, a payload (tailscale `derp/derp.go`).

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use thiserror::Error;

use crate::key::{KEY_LEN, Node, Public};

/// The most that a relayed packet may be (`MaxPacketSize`).
pub const MAX_PACKET: usize = 64 << 10;
/// The most that any other frame of a greeting may be (`MaxInfoLen`).
pub const MAX_INFO: usize = 1 << 20;
/// And after it, of the types that we read (ours: the longest is a text for people).
pub const MAX_OTHER: usize = 4 << 10;
/// What a server's first frame begins with.
pub const MAGIC: &[u8; 8] = b"DERP\xf0\x9f\x94\x91";
/// The type and the length before a payload.
pub const HEADER_LEN: usize = 5;

/// Why a peer of ours leaves a server's sight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoneReason {
    /// It was connected and went.
    Disconnected,
    /// The server does not know it.
    NotHere,
    /// Something newer.
    Other(u8),
}

/// A frame, from either side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The server's key; the first that it sends.
    ServerKey(Public<Node>),
    /// Who the client is: its key, a nonce and a box.
    ClientInfo {
        /// The client's key.
        key: Public<Node>,
        /// The nonce and the sealed JSON.
        sealed: Bytes,
    },
    /// What the server says about itself: a nonce and a box.
    ServerInfo(Bytes),
    /// A packet for another client.
    SendPacket {
        /// For whom.
        to: Public<Node>,
        /// The packet.
        packet: Bytes,
    },
    /// A packet from another client.
    RecvPacket {
        /// From whom.
        from: Public<Node>,
        /// The packet.
        packet: Bytes,
    },
    /// The server lives.
    KeepAlive,
    /// Whether this server is the client's home.
    NotePreferred(bool),
    /// A client is not there.
    PeerGone {
        /// Which.
        peer: Public<Node>,
        /// Why.
        reason: GoneReason,
    },
    /// To be answered with the same bytes.
    Ping([u8; 8]),
    /// The answer.
    Pong([u8; 8]),
    /// What is wrong with the connection; empty: nothing.
    Health(String),
    /// The server restarts: milliseconds to wait before trying again, and for how long to try.
    Restarting {
        /// To wait before the first try.
        after_millis: u32,
        /// To keep trying.
        try_for_millis: u32,
    },
    /// A type that does not concern us, or that we do not know; its payload was skipped.
    Unknown(u8),
}

/// A stream that is not DERP's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// A frame that is longer than its type may be.
    #[error("a frame of type {kind:#04x} has {len} bytes")]
    TooLong {
        /// Its type.
        kind: u8,
        /// Its length.
        len: usize,
    },
    /// A frame that is shorter than its type must be.
    #[error("a frame of type {kind:#04x} is cut short")]
    TooShort {
        /// Its type.
        kind: u8,
    },
    /// The first frame has another magic.
    #[error("the server's greeting is not DERP's")]
    Magic,
}

/// Takes a stream apart into frames. It holds at most one frame and what was read beyond it.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
    /// What is still to be thrown away of a frame that concerns nobody, and the frame's type.
    skip: usize,
    greeted: bool,
}

impl Decoder {
    /// The greeting is over: what is longer than what follows it is refused before it is held.
    pub const fn greeted(&mut self) {
        self.greeted = true;
    }

    /// Where what was read is appended.
    pub const fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next frame; `None`: more bytes are needed.
    ///
    /// # Errors
    /// If the stream is not DERP's; it cannot be read further then.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let drop = self.skip.min(self.buffer.len());
        self.buffer.advance(drop);
        self.skip -= drop;
        if self.skip > 0 {
            return Ok(None);
        }
        let Some(&[kind, a, b, c, d]) = self.buffer.first_chunk::<HEADER_LEN>() else { return Ok(None) };
        // A length that does not fit is too long by any measure.
        let len = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if len > self.max_len(kind) {
            return Err(FrameError::TooLong { kind, len });
        }
        if !is_known(kind) {
            self.buffer.advance(HEADER_LEN);
            self.skip = len;
            return Ok(Some(Frame::Unknown(kind)));
        }
        if self.buffer.len() < HEADER_LEN + len {
            return Ok(None);
        }
        self.buffer.advance(HEADER_LEN);
        let payload = self.buffer.split_to(len).freeze();
        parse(kind, payload).map(Some)
    }

    const fn max_len(&self, kind: u8) -> usize {
        match kind {
            SEND_PACKET | RECV_PACKET => KEY_LEN + MAX_PACKET,
            // One that we do not know is skipped, not held.
            _ if self.greeted && is_known(kind) => MAX_OTHER,
            _ => MAX_INFO,
        }
    }
}

/// Writes a frame. An [`Frame::Unknown`] is written without a payload.
pub fn encode(frame: &Frame, out: &mut BytesMut) {
    match frame {
        Frame::ServerKey(key) => put(out, SERVER_KEY, &[MAGIC, key.bytes()]),
        Frame::ClientInfo { key, sealed } => put(out, CLIENT_INFO, &[key.bytes(), sealed]),
        Frame::ServerInfo(sealed) => put(out, SERVER_INFO, &[sealed]),
        Frame::SendPacket { to, packet } => encode_send(to, packet, out),
        Frame::RecvPacket { from, packet } => put(out, RECV_PACKET, &[from.bytes(), packet]),
        Frame::KeepAlive => put(out, KEEP_ALIVE, &[]),
        Frame::NotePreferred(home) => put(out, NOTE_PREFERRED, &[&[u8::from(*home)]]),
        Frame::PeerGone { peer, reason } => {
            let reason = match reason {
                GoneReason::Disconnected => 0,
                GoneReason::NotHere => 1,
                GoneReason::Other(reason) => *reason,
            };
            put(out, PEER_GONE, &[peer.bytes(), &[reason]]);
        }
        Frame::Ping(data) => put(out, PING, &[data]),
        Frame::Pong(data) => put(out, PONG, &[data]),
        Frame::Health(text) => put(out, HEALTH, &[text.as_bytes()]),
        Frame::Restarting { after_millis, try_for_millis } => {
            put(out, RESTARTING, &[&after_millis.to_be_bytes(), &try_for_millis.to_be_bytes()]);
        }
        Frame::Unknown(kind) => put(out, *kind, &[]),
    }
}

/// Writes one packet for another client.
pub fn encode_send(to: &Public<Node>, packet: &[u8], out: &mut BytesMut) {
    put(out, SEND_PACKET, &[to.bytes(), packet]);
}

fn put(out: &mut BytesMut, kind: u8, parts: &[&[u8]]) {
    let len = parts.iter().map(|part| part.len()).sum::<usize>();
    out.reserve(HEADER_LEN + len);
    out.put_u8(kind);
    // Longer than this is never written: packets are bounded by their senders, the rest is ours.
    out.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
    for part in parts {
        out.put_slice(part);
    }
}

const fn is_known(kind: u8) -> bool {
    matches!(
        kind,
        SERVER_KEY
            | CLIENT_INFO
            | SERVER_INFO
            | SEND_PACKET
            | RECV_PACKET
            | KEEP_ALIVE
            | NOTE_PREFERRED
            | PEER_GONE
            | PING
            | PONG
            | HEALTH
            | RESTARTING
    )
}

/// What is longer than it must be has been extended by a newer version.
fn parse(kind: u8, mut payload: Bytes) -> Result<Frame, FrameError> {
    let short = FrameError::TooShort { kind };
    Ok(match kind {
        SERVER_KEY => {
            let magic: [u8; 8] = take(&mut payload).ok_or(short)?;
            if magic != *MAGIC {
                return Err(FrameError::Magic);
            }
            Frame::ServerKey(key(&mut payload).ok_or(short)?)
        }
        CLIENT_INFO => Frame::ClientInfo { key: key(&mut payload).ok_or(short)?, sealed: payload },
        SERVER_INFO => Frame::ServerInfo(payload),
        SEND_PACKET => Frame::SendPacket { to: key(&mut payload).ok_or(short)?, packet: payload },
        RECV_PACKET => Frame::RecvPacket { from: key(&mut payload).ok_or(short)?, packet: payload },
        KEEP_ALIVE => Frame::KeepAlive,
        NOTE_PREFERRED => Frame::NotePreferred(payload.first().ok_or(short)? == &1),
        PEER_GONE => {
            let peer = key(&mut payload).ok_or(short)?;
            let reason = match payload.first() {
                // Servers before the reason existed sent this for a client that went.
                None | Some(0) => GoneReason::Disconnected,
                Some(1) => GoneReason::NotHere,
                Some(other) => GoneReason::Other(*other),
            };
            Frame::PeerGone { peer, reason }
        }
        PING => Frame::Ping(take(&mut payload).ok_or(short)?),
        PONG => Frame::Pong(take(&mut payload).ok_or(short)?),
        HEALTH => Frame::Health(String::from_utf8_lossy(&payload).into_owned()),
        RESTARTING => Frame::Restarting {
            after_millis: u32::from_be_bytes(take(&mut payload).ok_or(short)?),
            try_for_millis: u32::from_be_bytes(take(&mut payload).ok_or(short)?),
        },
        other => Frame::Unknown(other),
    })
}

fn key(payload: &mut Bytes) -> Option<Public<Node>> {
    take(payload).map(Public::new)
}

fn take<const N: usize>(payload: &mut Bytes) -> Option<[u8; N]> {
    let chunk = *payload.first_chunk::<N>()?;
    payload.advance(N);
    Some(chunk)
}

const SERVER_KEY: u8 = 0x01;
const CLIENT_INFO: u8 = 0x02;
const SERVER_INFO: u8 = 0x03;
const SEND_PACKET: u8 = 0x04;
const RECV_PACKET: u8 = 0x05;
const KEEP_ALIVE: u8 = 0x06;
const NOTE_PREFERRED: u8 = 0x07;
const PEER_GONE: u8 = 0x08;
const PING: u8 = 0x12;
const PONG: u8 = 0x13;
const HEALTH: u8 = 0x14;
const RESTARTING: u8 = 0x15;
