//! Names, asked as a program asks and answered as a resolver answers.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::net::Host;
use crate::wait::s;

/// The port of names.
const PORT: u16 = 53;
/// How long a thread listens before it looks whether it is to end.
const TURN: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    Udp,
    Tcp,
}

/// Asks, with EDNS, and gives the whole answer.
pub(crate) fn ask(from: &Host, server: IpAddr, over: Over, name: &str, kind: RecordType) -> Message {
    let mut query = Message::new(0x5a5a, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    query.set_edns(edns);
    let (query, server) = (query.to_vec().unwrap(), SocketAddr::new(server, PORT));
    let reply = from.inside(|| match over {
        Over::Udp => {
            let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).unwrap();
            socket.connect(server).unwrap();
            socket.set_read_timeout(Some(s(10))).unwrap();
            socket.send(&query).unwrap();
            let mut buffer = vec![0; 4096];
            let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{name}: {error}"));
            buffer.truncate(length);
            buffer
        }
        Over::Tcp => {
            let mut stream = TcpStream::connect_timeout(&server, s(10)).unwrap();
            stream.set_read_timeout(Some(s(10))).unwrap();
            stream.write_all(&framed(&query)).unwrap();
            read_framed(&mut stream).unwrap_or_else(|| panic!("{name}: no answer by TCP"))
        }
    });
    let reply = Message::from_vec(&reply).unwrap();
    assert_eq!((reply.metadata.id, reply.metadata.message_type), (0x5a5a, MessageType::Response), "{name}");
    reply
}

/// Why an answer is what it is, as RFC 8914 has it.
pub(crate) fn extended_error(reply: &Message) -> Option<u16> {
    match reply.edns.as_ref()?.option(EdnsCode::Unknown(15))? {
        EdnsOption::Unknown(_, bytes) => Some(u16::from_be_bytes(bytes.first_chunk().copied()?)),
        _ => None,
    }
}

/// The IPv4 addresses in an answer.
pub(crate) fn addresses(reply: &Message) -> Vec<Ipv4Addr> {
    let address = |record: &Record| match &record.data {
        RData::A(address) => Some(address.0),
        _ => None,
    };
    reply.answers.iter().filter_map(address).collect()
}

/// A resolver on a host that gives every name the same address, and remembers who was asked for. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Resolver {
    stop: Arc<AtomicBool>,
    asked: Arc<Mutex<Vec<String>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Resolver {
    pub(crate) fn open(host: &Host, says: Ipv4Addr) -> Self {
        let (udp, tcp) = host.inside(|| {
            (UdpSocket::bind((host.v4, PORT)).unwrap(), TcpListener::bind((host.v4, PORT)).unwrap())
        });
        udp.set_read_timeout(Some(TURN)).unwrap();
        tcp.set_nonblocking(true).unwrap();
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let mut resolver = Self { stop, asked, threads: Vec::new() };
        resolver.thread(move |note| {
            let mut buffer = [0; 4096];
            if let Ok((length, from)) = udp.recv_from(&mut buffer) {
                drop(udp.send_to(&note.answer(&buffer[..length], says), from));
            }
        });
        resolver.thread(move |note| {
            let Ok((mut stream, _)) = tcp.accept() else { return thread::sleep(TURN) };
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(s(2))).unwrap();
            if let Some(query) = read_framed(&mut stream) {
                drop(stream.write_all(&framed(&note.answer(&query, says))));
            }
        });
        resolver
    }

    fn thread(&mut self, turn: impl Fn(&Note) + Send + 'static) {
        let (stop, note) = (Arc::clone(&self.stop), Note(Arc::clone(&self.asked)));
        self.threads.push(thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                turn(&note);
            }
        }));
    }

    /// The names that it was asked for, in this order.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

struct Note(Arc<Mutex<Vec<String>>>);

impl Note {
    fn answer(&self, query: &[u8], says: Ipv4Addr) -> Vec<u8> {
        let query = Message::from_vec(query).unwrap();
        let question = query.queries[0].clone();
        self.0.lock().unwrap().push(question.name().to_ascii().trim_end_matches('.').to_owned());
        let mut reply = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
        reply.metadata.recursion_available = true;
        if question.query_type() == RecordType::A {
            reply.add_answer(Record::from_rdata(question.name().clone(), 60, RData::A(A(says))));
        }
        reply.add_query(question);
        reply.to_vec().unwrap()
    }
}

/// By TCP a message has its length before it.
fn framed(message: &[u8]) -> Vec<u8> {
    [&u16::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

fn read_framed(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut message).ok()?;
    Some(message)
}
