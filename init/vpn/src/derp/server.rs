//! A small relay server, for tests and rigs: it forwards, and has none of the guards that a real one needs.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::connection::{ReadError, Stream, next_frame};
use super::frame::{Decoder, Frame, GoneReason, encode};
use super::handshake::{HandshakeError, PROTOCOL_VERSION, ServerInfo, read_client_info, server_info};
use crate::key::{Node, Public, Secret};

/// A relay's clients.
#[derive(Debug)]
pub struct Server {
    key: Secret<Node>,
    /// Who may connect; `None`: everybody.
    admitted: Option<HashSet<Public<Node>>>,
    clients: Mutex<HashMap<Public<Node>, Client>>,
}

#[derive(Debug)]
struct Client {
    queue: mpsc::Sender<Frame>,
    home: bool,
}

/// Why a client was let go.
#[derive(Debug, Error)]
pub enum ServeError {
    /// Its stream ended or broke.
    #[error("the client's stream broke: {0}")]
    Io(#[from] io::Error),
    /// It does not speak DERP.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Its greeting is wrong.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// It does not ask for `/derp`.
    #[error("not a request for DERP")]
    NotDerp,
    /// It may not connect.
    #[error("the client is not admitted")]
    NotAdmitted,
    /// It connected again.
    #[error("another connection took the client's place")]
    Replaced,
}

impl Server {
    /// A relay with a key, for these clients.
    pub fn new(key: Secret<Node>, admitted: Option<HashSet<Public<Node>>>) -> Arc<Self> {
        Arc::new(Self { key, admitted, clients: Mutex::default() })
    }

    /// Who is connected, and whether for them this is home.
    pub fn clients(&self) -> Vec<(Public<Node>, bool)> {
        self.lock().iter().map(|(key, client)| (*key, client.home)).collect()
    }

    /// Sends a frame to a client; `false` if it is not here or takes nothing.
    pub fn push(&self, to: &Public<Node>, frame: Frame) -> bool {
        self.lock().get(to).is_some_and(|client| client.queue.try_send(frame).is_ok())
    }

    /// Serves one client until it goes.
    ///
    /// # Errors
    /// It always ends with one.
    pub async fn serve(self: Arc<Self>, mut stream: Box<dyn Stream>) -> Result<(), ServeError> {
        let mut decoder = Decoder::default();
        self.upgrade(&mut stream, decoder.buffer()).await?;
        let mut out = BytesMut::new();
        encode(&Frame::ServerKey(self.key.public()), &mut out);
        stream.write_all(&out).await?;
        stream.flush().await?;
        let Frame::ClientInfo { key, sealed } = next_frame(&mut stream, &mut decoder).await? else {
            return Err(ServeError::NotDerp);
        };
        read_client_info(&self.key, &key, &sealed)?;
        if self.admitted.as_ref().is_some_and(|admitted| !admitted.contains(&key)) {
            return Err(ServeError::NotAdmitted);
        }
        out.clear();
        let info = ServerInfo { version: PROTOCOL_VERSION, ..ServerInfo::default() };
        encode(&server_info(&self.key, &key, &info)?, &mut out);
        stream.write_all(&out).await?;
        stream.flush().await?;

        let (queue, receiver) = mpsc::channel(QUEUE);
        self.lock().insert(key, Client { queue: queue.clone(), home: false });
        let end = self.forward(key, stream, decoder, receiver).await;
        let mut clients = self.lock();
        if clients.get(&key).is_some_and(|client| client.queue.same_channel(&queue)) {
            clients.remove(&key);
            for client in clients.values() {
                let gone = Frame::PeerGone { peer: key, reason: GoneReason::Disconnected };
                drop(client.queue.try_send(gone));
            }
        }
        end
    }

    async fn forward(
        &self,
        key: Public<Node>,
        stream: Box<dyn Stream>,
        mut decoder: Decoder,
        mut receiver: mpsc::Receiver<Frame>,
    ) -> Result<(), ServeError> {
        let (mut read, mut write) = tokio::io::split(stream);
        let mut out = BytesMut::new();
        loop {
            tokio::select! {
                frame = next_frame(&mut read, &mut decoder) => self.take(key, frame?),
                frame = receiver.recv() => {
                    encode(&frame.ok_or(ServeError::Replaced)?, &mut out);
                    while let Ok(frame) = receiver.try_recv() {
                        encode(&frame, &mut out);
                    }
                    write.write_all(&out).await?;
                    write.flush().await?;
                    out.clear();
                }
            }
        }
    }

    fn take(&self, key: Public<Node>, frame: Frame) {
        match frame {
            Frame::SendPacket { to, packet } => {
                let arrived = self.push(&to, Frame::RecvPacket { from: key, packet });
                let gone = Frame::PeerGone { peer: to, reason: GoneReason::NotHere };
                let _told = arrived || self.push(&key, gone);
            }
            Frame::NotePreferred(home) => {
                if let Some(client) = self.lock().get_mut(&key) {
                    client.home = home;
                }
            }
            Frame::Ping(data) => {
                self.push(&key, Frame::Pong(data));
            }
            _ => {}
        }
    }

    async fn upgrade(&self, stream: &mut Box<dyn Stream>, buffer: &mut BytesMut) -> Result<(), ServeError> {
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            let hopeless = buffer.len() >= METHOD.len() && !buffer.starts_with(METHOD);
            if hopeless || buffer.len() > MAX_HEAD || stream.read_buf(buffer).await? == 0 {
                return Err(ServeError::NotDerp);
            }
        };
        let head = String::from_utf8_lossy(&buffer.split_to(end)).to_ascii_lowercase();
        if !head.starts_with("get /derp http/1.1\r\n") || !head.contains("\r\nupgrade: derp\r\n") {
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await?;
            return Err(ServeError::NotDerp);
        }
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\nDerp-Version: \
             {PROTOCOL_VERSION}\r\nDerp-Public-Key: {}\r\n\r\n",
            hex::encode(self.key.public().bytes())
        );
        stream.write_all(answer.as_bytes()).await?;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Public<Node>, Client>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As a real relay's queue for one client.
const QUEUE: usize = 32;
const METHOD: &[u8] = b"GET ";
const MAX_HEAD: usize = 16 << 10;
