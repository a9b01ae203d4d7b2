//! A small DHCP server for the tests, whose answers are bytes that a test chooses. It reads the client's messages through
//! another implementation (dhcproto) than the client's.

#![expect(clippy::unwrap_used, reason = "a test's rig: what fails here fails the test")]
#![allow(dead_code, reason = "each test file uses its part")]

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use dhcproto::v4::{Message, MessageType};
use dhcproto::{Decodable as _, Decoder};
use nix::sys::socket::{setsockopt, sockopt};

use crate::net_rig::Rig;

pub(crate) const OFFER: u8 = 2;
pub(crate) const ACK: u8 = 5;
pub(crate) const NAK: u8 = 6;

/// What the server heard.
pub(crate) enum Seen<'a> {
    Discover(&'a Message),
    Request(&'a Message),
}

/// An answer that a test may spoil.
#[derive(Clone)]
pub(crate) struct Answer {
    pub(crate) xid: u32,
    pub(crate) mac: [u8; 6],
    pub(crate) address: [u8; 4],
    pub(crate) options: Vec<(u8, Vec<u8>)>,
}

impl Answer {
    /// A good one: 10.9.0.50/24 by 10.9.0.1 for an hour.
    pub(crate) fn to(message: &Message, kind: u8) -> Self {
        Self {
            xid: message.xid(),
            mac: message.chaddr().try_into().unwrap(),
            address: [10, 9, 0, 50],
            options: vec![
                (53, vec![kind]),
                (54, vec![10, 9, 0, 1]),
                (51, 3600_u32.to_be_bytes().to_vec()),
                (1, vec![255, 255, 255, 0]),
                (3, vec![10, 9, 0, 1]),
            ],
        }
    }

    /// With one option replaced, or taken away.
    pub(crate) fn with(mut self, code: u8, value: Option<&[u8]>) -> Self {
        self.options.retain(|(one, _)| *one != code);
        self.options.extend(value.map(|value| (code, value.to_vec())));
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![2, 1, 6, 0];
        bytes.extend(self.xid.to_be_bytes());
        bytes.extend([0; 8]);
        bytes.extend(self.address);
        bytes.extend([0; 8]);
        bytes.extend(self.mac);
        bytes.extend([0; 202]);
        bytes.extend([99, 130, 83, 99]);
        for (code, value) in &self.options {
            bytes.extend([*code, u8::try_from(value.len()).unwrap()]);
            bytes.extend(value);
        }
        bytes.push(255);
        bytes
    }
}

/// Ways to spoil an answer; none of them may count.
pub(crate) fn hostile_variants(good: &Answer) -> Vec<Vec<u8>> {
    let change = |change: fn(&mut Answer)| {
        let mut bad = good.clone();
        change(&mut bad);
        bad.bytes()
    };
    let option = |code: u8, value: Option<&[u8]>| good.clone().with(code, value).bytes();
    let cut = |len: usize| good.bytes().into_iter().take(len).collect();
    let mut doubled = good.clone();
    doubled.options.push((3, vec![10, 9, 0, 66]));
    let mut overlapping = good.bytes();
    // The last option's length reaches past the end option.
    overlapping.pop();
    overlapping.extend([12, 200, 255]);
    let mut cookie = good.bytes();
    cookie.splice(236..240, [0; 4]);
    vec![
        change(|answer| answer.xid ^= 1),
        change(|answer| answer.mac = [2, 0, 0, 0, 0, 9]),
        change(|answer| answer.address = [255; 4]),
        change(|answer| answer.address = [127, 0, 0, 1]),
        change(|answer| answer.address = [198, 18, 0, 2]),
        option(1, Some(&[255; 4])),
        option(1, Some(&[0; 4])),
        option(1, None),
        option(1, Some(&[255, 0, 255, 0])),
        option(3, Some(&[192, 0, 2, 1])),
        option(3, Some(&[10, 9, 0, 50])),
        option(3, Some(&[10, 9, 0, 255])),
        option(3, None),
        option(3, Some(&[10, 9, 0])),
        option(51, None),
        option(51, Some(&[0; 4])),
        option(51, Some(&[0; 3])),
        option(53, None),
        option(53, Some(&[9])),
        option(54, None),
        option(54, Some(&[255; 4])),
        cut(0),
        cut(239),
        cut(245),
        cut(good.bytes().len().saturating_sub(1)),
        doubled.bytes(),
        overlapping,
        cookie,
    ]
}

/// DNS, name, domain, MTU 68, routes of both kinds, NTP, vendor options, search list, WPAD, boot server and file, and the
/// claim that `sname` and `file` hold options too.
pub(crate) fn with_hostile_options(mut good: Answer) -> Answer {
    let route: Vec<u8> = vec![0, 10, 9, 0, 66, 1, 128, 10, 9, 0, 66];
    let options: [(u8, Vec<u8>); 14] = [
        (121, route.clone()),
        (249, route),
        (6, vec![10, 9, 0, 66]),
        (12, b"attacker".to_vec()),
        (15, b"attacker.example".to_vec()),
        (26, vec![0, 68]),
        (33, vec![1, 1, 1, 1, 10, 9, 0, 66]),
        (42, vec![10, 9, 0, 66]),
        (43, vec![255; 200]),
        (52, vec![3]),
        (66, b"10.9.0.66".to_vec()),
        (67, b"/boot".to_vec()),
        (119, vec![0xc0; 250]),
        (252, b"http://10.9.0.66/wpad.dat".to_vec()),
    ];
    good.options.splice(0..0, options);
    good
}

/// Runs until it is dropped.
pub(crate) struct Server {
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicUsize>,
    sources: Arc<Mutex<Vec<SocketAddr>>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(
        rig: &Rig,
        mut answers: impl FnMut(&Seen<'_>) -> Vec<Vec<u8>> + Send + 'static,
    ) -> Self {
        let socket = rig.in_host(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 67)).unwrap();
            setsockopt(&socket, sockopt::BindToDevice, &"host0".into()).unwrap();
            socket.set_broadcast(true).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            socket
        });
        let mut server =
            Self { stop: Arc::default(), requests: Arc::default(), sources: Arc::default(), thread: None };
        let (stop, requests) = (Arc::clone(&server.stop), Arc::clone(&server.requests));
        let sources = Arc::clone(&server.sources);
        let serve = move || {
            let mut buffer = [0; 1500];
            while !stop.load(Ordering::Relaxed) {
                let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
                sources.lock().unwrap().push(from);
                let message = Message::decode(&mut Decoder::new(buffer.get(..len).unwrap())).unwrap();
                let seen = match message.opts().msg_type() {
                    Some(MessageType::Discover) => Seen::Discover(&message),
                    Some(MessageType::Request) => {
                        requests.fetch_add(1, Ordering::Relaxed);
                        Seen::Request(&message)
                    }
                    other => panic!("the client sent {other:?}"),
                };
                // RFC 2131 section 4.1: to the client's own address if it has one.
                let to = Some(message.ciaddr()).filter(|address| !address.is_unspecified());
                for answer in answers(&seen) {
                    // Not faster than a small queue drains; the flood test is about content, not about loss.
                    socket.send_to(&answer, (to.unwrap_or(Ipv4Addr::BROADCAST), 68)).unwrap();
                    std::thread::sleep(Duration::from_micros(200));
                }
            }
        };
        server.thread = Some(std::thread::spawn(serve));
        server
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn sources(&self) -> Vec<SocketAddr> {
        self.sources.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}
