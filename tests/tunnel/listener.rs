//! Listeners on hosts: one that answers, and one that nobody is to reach.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex};

use crate::net::Host;

/// A listener; its thread ends with the test.
pub(crate) struct Listener(Arc<Mutex<Vec<IpAddr>>>);

impl Listener {
    /// Answers whatever request with one line of text.
    pub(crate) fn answering(host: &Host, port: u16, line: &str) -> Self {
        let listener = host.inside(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
        let callers = Arc::<Mutex<Vec<IpAddr>>>::default();
        let (shared, line) = (Arc::clone(&callers), line.to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                shared.lock().unwrap().push(stream.peer_addr().unwrap().ip());
                // A caller that goes away is its own affair.
                drop(stream.read(&mut [0; 1024]));
                let length = line.len() + 1;
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{line}\n"
                );
                drop(stream.write_all(answer.as_bytes()));
            }
        });
        Self(callers)
    }

    /// Who has called.
    pub(crate) fn callers(&self) -> Vec<IpAddr> {
        self.0.lock().unwrap().clone()
    }
}
