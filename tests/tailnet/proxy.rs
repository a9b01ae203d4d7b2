//! What a node sends to its control server, counted on the way: whoever is refused must not ask again and again.

use std::io::{Read, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::headscale::{Headscale, PORT};
use crate::wait::s;

/// A port of the server's host that leads to the server. It closes when it is dropped.
#[derive(Debug)]
pub(crate) struct Counter {
    port: u16,
    stop: Arc<AtomicBool>,
    counts: Arc<Mutex<Counts>>,
}

/// What came from the nodes since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) connections: u32,
    /// `GET /key`.
    pub(crate) keys: u32,
    /// `POST /ts2021`.
    pub(crate) upgrades: u32,
    /// Noise records, in which the requests are: an HTTP/2 frame or a few in each.
    pub(crate) records: u32,
}

impl Counter {
    pub(crate) fn open(server: &Headscale) -> Self {
        let listener = server.host.inside(|| TcpListener::bind((server.host.v4, 0)).unwrap());
        let port = listener.local_addr().unwrap().port();
        listener.set_nonblocking(true).unwrap();
        let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Counts::default())));
        let (to, host) = (SocketAddr::from((server.host.v4, PORT)), server.host.clone());
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&counts));
        thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let Ok((near, _)) = listener.accept() else {
                    thread::sleep(std::time::Duration::from_millis(20));
                    continue;
                };
                counted.lock().unwrap().connections += 1;
                near.set_nonblocking(false).unwrap();
                // A server that is away refuses; so do we, as far as that goes.
                let Ok(far) = host.inside(|| TcpStream::connect_timeout(&to, s(5))) else { continue };
                let (sends, receives) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                thread::spawn(move || carried(receives, sends, |_| {}));
                let counted = Arc::clone(&counted);
                thread::spawn(move || {
                    let mut reader = Reader::default();
                    carried(near, far, |bytes| reader.read(bytes, &mut counted.lock().unwrap()));
                });
            }
        });
        Self { port, stop, counts }
    }

    pub(crate) fn url(&self, server: &Headscale) -> String {
        server.url_at(self.port)
    }

    pub(crate) fn counts(&self) -> Counts {
        *self.counts.lock().unwrap()
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn carried(mut from: TcpStream, mut to: TcpStream, mut look: impl FnMut(&[u8])) {
    let mut buffer = [0; 16384];
    while let Ok(size @ 1..) = from.read(&mut buffer) {
        look(&buffer[..size]);
        if to.write_all(&buffer[..size]).is_err() {
            break;
        }
    }
    // Who closes one side has closed both: neither end goes on after that.
    drop(from.shutdown(Shutdown::Both));
    drop(to.shutdown(Shutdown::Both));
}

/// Reads requests without a body, and records after the one that asks for an upgrade.
#[derive(Debug, Default)]
struct Reader {
    upgraded: bool,
    pending: Vec<u8>,
}

impl Reader {
    fn read(&mut self, bytes: &[u8], counts: &mut Counts) {
        self.pending.extend_from_slice(bytes);
        loop {
            let size = if self.upgraded {
                // A kind, and the length of what follows.
                let Some(&[_, high, low]) = self.pending.first_chunk() else { return };
                usize::from(u16::from_be_bytes([high, low])) + 3
            } else {
                let Some(end) = self.pending.windows(4).position(|four| four == b"\r\n\r\n") else { return };
                end + 4
            };
            if self.pending.len() < size {
                return;
            }
            let message: Vec<u8> = self.pending.drain(..size).collect();
            if self.upgraded {
                counts.records += 1;
            } else if message.starts_with(b"GET /key") {
                counts.keys += 1;
            } else if message.starts_with(b"POST /ts2021") {
                counts.upgrades += 1;
                self.upgraded = true;
            }
        }
    }
}

#[test]
fn requests_and_records_are_counted_however_they_come() {
    let mut bytes =
        b"GET /key?v=130 HTTP/1.1\r\nHost: x\r\n\r\nPOST /ts2021 HTTP/1.1\r\nUpgrade: y\r\n\r\n".to_vec();
    bytes.extend([4, 0, 2, 9, 9, 4, 0, 0, 4, 0, 1, 13]);
    for piece in 1..=bytes.len() {
        let (mut reader, mut counts) = (Reader::default(), Counts::default());
        for some in bytes.chunks(piece) {
            reader.read(some, &mut counts);
        }
        assert_eq!(counts, Counts { connections: 0, keys: 1, upgrades: 1, records: 3 });
    }
}
