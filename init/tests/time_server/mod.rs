//! A time server of the tests' own: a key exchange by rustls, NTP with whatever answers a test wants, and a CA.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aes_siv::KeyInit as _;
use aes_siv::siv::Aes128Siv;
use casemate_init::time::{Client, Handover, Server};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{RootCertStore, ServerConfig, ServerConnection, Stream, SupportedProtocolVersion};

use crate::net_rig::Rig;

pub(crate) const NAME: &str = "nts.example";
pub(crate) const EXCHANGE: u16 = 4460;
const NTP: u16 = 123;
const DAY: u64 = 86_400;

/// What the machine under the tests believes.
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) roots: RootCertStore,
    /// The root, DER.
    pub(crate) root: Vec<u8>,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let mut roots = RootCertStore::empty();
        let root = params.self_signed(&key).unwrap().der().clone();
        roots.add(root.clone()).unwrap();
        Self { issuer: Issuer::new(params, key), roots, root: root.to_vec() }
    }

    /// A certificate for a name, valid for two days around a time, and its key.
    pub(crate) fn leaf(&self, name: &str, around: Duration) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let at = |seconds: u64| time::OffsetDateTime::from_unix_timestamp(seconds.cast_signed()).unwrap();
        params.not_before = at(around.as_secs() - DAY);
        params.not_after = at(around.as_secs() + DAY);
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// A client in the guest's namespace, as the time process's uid, that is told these servers.
    pub(crate) fn client(&self, rig: &Rig, servers: &[Ipv4Addr]) -> Client {
        self.client_for(rig, servers, NAME)
    }

    pub(crate) fn client_for(&self, rig: &Rig, servers: &[Ipv4Addr], name: &str) -> Client {
        let told = told(servers, name);
        rig.in_guest(|| {
            // The sockets are of whoever makes them: threads take it from the thread that starts them.
            nix::unistd::setfsuid(nix::unistd::Uid::from_raw(casemate_init::layout::TIME_UID));
            Client::new(&told, self.roots.clone()).unwrap()
        })
    }
}

/// What PID 1 would say.
pub(crate) fn told(servers: &[Ipv4Addr], name: &str) -> Handover {
    let server = |address: &Ipv4Addr| Server { address: (*address, EXCHANGE).into(), name: name.into() };
    let floor = now().as_secs() - 30 * DAY;
    Handover {
        servers: servers.iter().map(server).collect(),
        floor,
        horizon: floor + casemate_init::time::HORIZON.as_secs(),
    }
}

/// Why a server gave no time in the last round.
pub(crate) fn why(client: &Client) -> String {
    let all: Vec<String> = client.failures().map(|(_, error)| error.to_string()).collect();
    all.join("; ")
}

/// A record of the key exchange.
pub(crate) fn record(critical: bool, kind: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = (kind | if critical { 0x8000 } else { 0 }).to_be_bytes().to_vec();
    bytes.extend_from_slice(&u16::try_from(body.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// An answer, good until a test changes it.
#[derive(Clone)]
pub(crate) struct Reply {
    pub(crate) header: [u8; 48],
    pub(crate) unique_id: Vec<u8>,
    pub(crate) key: [u8; 32],
    pub(crate) cookies: Vec<Vec<u8>>,
    pub(crate) authenticated: bool,
}

impl Reply {
    /// Moves what the server says the time is.
    pub(crate) fn moved(mut self, seconds: i64) -> Self {
        for at in [32, 40] {
            let stamp: [u8; 4] = self.header[at..at + 4].try_into().unwrap();
            let moved = (i64::from(u32::from_be_bytes(stamp)) + seconds) & 0xffff_ffff;
            self.header[at..at + 4].copy_from_slice(&u32::try_from(moved).unwrap().to_be_bytes());
        }
        self
    }

    pub(crate) fn kiss(mut self, code: &[u8; 4], authenticated: bool) -> Self {
        self.header[1] = 0;
        self.header[12..16].copy_from_slice(code);
        self.authenticated = authenticated;
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header.to_vec();
        field(&mut bytes, 0x0104, &self.unique_id);
        if self.authenticated {
            let mut plain = Vec::new();
            for cookie in &self.cookies {
                field(&mut plain, 0x0204, cookie);
            }
            let nonce = [9; 16];
            let sealed =
                Aes128Siv::new((&self.key).into()).encrypt([&bytes[..], &nonce[..]], &plain).unwrap();
            let mut body = 16_u16.to_be_bytes().to_vec();
            body.extend_from_slice(&u16::try_from(sealed.len()).unwrap().to_be_bytes());
            body.extend_from_slice(&nonce);
            body.extend_from_slice(&sealed);
            field(&mut bytes, 0x0404, &body);
        }
        bytes
    }
}

fn field(bytes: &mut Vec<u8>, kind: u16, body: &[u8]) {
    let padded = body.len().next_multiple_of(4);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&u16::try_from(padded + 4).unwrap().to_be_bytes());
    bytes.extend_from_slice(body);
    bytes.resize(bytes.len() + padded - body.len(), 0);
}

/// The fields of a request.
fn fields(request: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut rest = &request[48..];
    let mut all = Vec::new();
    while let [a, b, c, d, ..] = *rest {
        let length = usize::from(u16::from_be_bytes([c, d]));
        all.push((u16::from_be_bytes([a, b]), rest[4..length].to_vec()));
        rest = &rest[length..];
    }
    all
}

type Records = Box<dyn Fn() -> Vec<Vec<u8>> + Send + Sync>;
type Replies = Box<dyn Fn(Reply) -> Vec<Vec<u8>> + Send + Sync>;

/// How a server behaves.
pub(crate) struct Script {
    /// Records before the cookies.
    pub(crate) records: Records,
    /// The datagrams that answer a request.
    pub(crate) replies: Replies,
    pub(crate) alpn: &'static [u8],
    pub(crate) version: &'static SupportedProtocolVersion,
    /// How long the key exchange waits before each byte of its answer.
    pub(crate) drip: Duration,
    /// Whom and when its certificate is for.
    pub(crate) name: &'static str,
    pub(crate) certified: Duration,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            records: Box::new(Vec::new),
            replies: Box::new(|reply| vec![reply.bytes()]),
            alpn: b"ntske/1",
            version: &rustls::version::TLS13,
            drip: Duration::ZERO,
            name: NAME,
            certified: now(),
        }
    }
}

impl Script {
    pub(crate) fn records(records: impl Fn() -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self { records: Box::new(records), ..Self::default() }
    }

    pub(crate) fn replies(replies: impl Fn(Reply) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self { replies: Box::new(replies), ..Self::default() }
    }
}

/// What it has seen.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) exchanges: AtomicUsize,
    pub(crate) requests: AtomicUsize,
    /// Cookies that came twice.
    pub(crate) reused: AtomicUsize,
    cookies: Mutex<BTreeSet<Vec<u8>>>,
    /// Keys of the last key exchange: to the server, to the client.
    keys: Mutex<([u8; 32], [u8; 32])>,
    made: AtomicUsize,
}

impl Seen {
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        let get = |count: &AtomicUsize| count.load(Ordering::SeqCst);
        (get(&self.exchanges), get(&self.requests), get(&self.reused))
    }

    /// A cookie that was never made before.
    fn cookie(&self) -> Vec<u8> {
        let number = self.made.fetch_add(1, Ordering::SeqCst).to_be_bytes();
        [&number[..], &[0xc0; 92]].concat()
    }
}

/// A server; it ends with this value.
pub(crate) struct Fake {
    pub(crate) seen: Arc<Seen>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// How often threads look whether they shall end.
const LOOK: Duration = Duration::from_millis(20);

impl Fake {
    pub(crate) fn start(rig: &Rig, ca: &Ca, address: Ipv4Addr, script: Script) -> Self {
        let (listener, ntp) = rig.in_host(|| {
            let bind = (TcpListener::bind((address, EXCHANGE)), UdpSocket::bind((address, NTP)));
            (bind.0.unwrap(), bind.1.unwrap())
        });
        let (certificate, key) = ca.leaf(script.name, script.certified);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[script.version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        tls.alpn_protocols = vec![script.alpn.to_vec()];
        let (seen, stop) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
        let (script, tls) = (Arc::new(script), Arc::new(tls));
        let threads = vec![
            std::thread::spawn({
                let (seen, stop, script) = (seen.clone(), stop.clone(), script.clone());
                move || exchanges(&listener, &tls, &script, &seen, &stop)
            }),
            std::thread::spawn({
                let (seen, stop) = (seen.clone(), stop.clone());
                move || requests(&ntp, &script, &seen, &stop)
            }),
        ];
        Self { seen, stop, threads }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the fake server panicked");
        }
    }
}

fn exchanges(
    listener: &TcpListener,
    tls: &Arc<ServerConfig>,
    script: &Script,
    seen: &Seen,
    stop: &AtomicBool,
) {
    listener.set_nonblocking(true).unwrap();
    while !stop.load(Ordering::SeqCst) {
        let Ok((mut socket, _)) = listener.accept() else {
            std::thread::sleep(LOOK);
            continue;
        };
        seen.exchanges.fetch_add(1, Ordering::SeqCst);
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut connection = ServerConnection::new(tls.clone()).unwrap();
        let mut stream = Stream::new(&mut connection, &mut socket);
        let mut request = [0; 16];
        // A client that refuses our certificate hangs up here.
        if stream.read_exact(&mut request).is_err() {
            continue;
        }
        assert_eq!(request, [0x80, 1, 0, 2, 0, 0, 0x80, 4, 0, 2, 0, 15, 0x80, 0, 0, 0]);
        let mut answer = [record(true, 1, &[0, 0]), record(true, 4, &[0, 15])].concat();
        answer.extend((script.records)().concat());
        for _ in 0..8 {
            answer.extend(record(false, 5, &seen.cookie()));
        }
        answer.extend(record(true, 0, &[]));
        let key = |direction| {
            let context = [0, 0, 0, 15, direction];
            stream.conn.export_keying_material([0; 32], b"EXPORTER-network-time-security", Some(&context))
        };
        *seen.keys.lock().unwrap() = (key(0).unwrap(), key(1).unwrap());
        let sent = if script.drip.is_zero() {
            stream.write_all(&answer)
        } else {
            answer.iter().try_for_each(|byte| {
                std::thread::sleep(script.drip);
                stream.write_all(&[*byte])
            })
        };
        if sent.is_ok() {
            stream.conn.send_close_notify();
            let _gone = stream.flush();
        }
    }
}

fn requests(socket: &UdpSocket, script: &Script, seen: &Seen, stop: &AtomicBool) {
    socket.set_read_timeout(Some(LOOK)).unwrap();
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::SeqCst) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let request = &buffer[..length];
        seen.requests.fetch_add(1, Ordering::SeqCst);
        for bytes in (script.replies)(reply(request, seen)) {
            socket.send_to(&bytes, from).unwrap();
        }
    }
}

/// A good answer, or NTSN to whom our keys are not known; the request must be one that a real server would take.
fn reply(request: &[u8], seen: &Seen) -> Reply {
    let (to_server, to_client) = *seen.keys.lock().unwrap();
    let all = fields(request);
    let kinds: Vec<u16> = all.iter().map(|(kind, _)| *kind).collect();
    assert!(request[0] == 0x23 && kinds.starts_with(&[0x0104, 0x0204]) && kinds.ends_with(&[0x0404]));
    let authenticator = &all.last().unwrap().1;
    let data = &request[..request.len() - authenticator.len() - 4];
    let (nonce, sealed) = (&authenticator[4..20], &authenticator[20..36]);
    let known = Aes128Siv::new((&to_server).into()).decrypt([data, nonce], sealed);
    assert!(known.iter().all(Vec::is_empty));
    if !seen.cookies.lock().unwrap().insert(all[1].1.clone()) {
        seen.reused.fetch_add(1, Ordering::SeqCst);
    }
    let wanted = kinds.iter().filter(|kind| matches!(**kind, 0x0204 | 0x0304)).count();

    let mut header = [0; 48];
    header[..4].copy_from_slice(&[0x24, 1, 6, 0xe8]);
    header[12..16].copy_from_slice(b"TEST");
    header[24..32].copy_from_slice(&request[40..48]);
    let now = now();
    let stamp =
        ((now.as_secs() + 2_208_988_800) << 32) | ((u64::from(now.subsec_nanos()) << 32) / 1_000_000_000);
    header[32..40].copy_from_slice(&stamp.to_be_bytes());
    header[40..48].copy_from_slice(&stamp.to_be_bytes());
    let good = Reply {
        header,
        unique_id: all[0].1.clone(),
        key: to_client,
        cookies: (0..wanted).map(|_| seen.cookie()).collect(),
        authenticated: true,
    };
    if known.is_ok() { good } else { good.kiss(b"NTSN", false) }
}

/// A rig whose host has so many addresses from 10.9.0.1 on, and whose guest is 10.9.0.15.
pub(crate) fn rig(servers: u8) -> Option<Rig> {
    let rig = Rig::new()?;
    rig.in_guest(|| {
        crate::net_rig::ip("link set lo up");
        crate::net_rig::ip("address add 10.9.0.15/24 dev eth0");
        crate::net_rig::ip("link set eth0 up");
    });
    rig.in_host(|| {
        for number in 2..=servers {
            crate::net_rig::ip(&format!("address add 10.9.0.{number}/24 dev host0"));
        }
    });
    Some(rig)
}

pub(crate) const fn server(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 9, 0, number)
}

pub(crate) const fn exchange_of(number: u8) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(server(number)), EXCHANGE)
}
