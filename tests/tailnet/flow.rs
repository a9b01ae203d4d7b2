//! Something that goes to another host and back all the time, and knows how long nothing came back.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::net::Host;
use crate::wait::s;

/// How often something is sent.
const PERIOD: Duration = Duration::from_millis(50);
/// How long a thread listens before it looks whether it is to end.
const TURN: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

/// A flow from one host to another's echo. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Flow {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    last: Instant,
    longest: Duration,
    count: u64,
    /// Why a TCP stream ended.
    broken: Option<String>,
}

impl Flow {
    /// Begins one: there must be a way. Port 0 is any.
    pub(crate) fn begin(protocol: Protocol, from: &Host, to: &Host, address: &str, port: u16) -> Self {
        let address = SocketAddr::new(address.parse::<IpAddr>().unwrap(), port);
        let seen = Seen { last: Instant::now(), longest: Duration::ZERO, count: 0, broken: None };
        let shared = Arc::new(Shared { stop: AtomicBool::new(false), seen: Mutex::new(seen) });
        let mut flow = Self { shared, threads: Vec::new() };
        match protocol {
            Protocol::Tcp => flow.tcp(from, to, address),
            Protocol::Udp => flow.udp(from, to, address),
        }
        crate::wait::until(s(10), "the first echo", || (flow.seen().count > 0).then_some(()));
        flow.forget();
        flow
    }

    fn tcp(&mut self, from: &Host, to: &Host, address: SocketAddr) {
        let listener = to.inside(|| TcpListener::bind(address).unwrap());
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let near = from.inside(|| connected(address, s(10))).unwrap();
        let accepted = crate::wait::until(s(10), "a connection", || listener.accept().ok());
        let mut far = accepted.0;
        // What the listener was, the stream is on some systems.
        far.set_nonblocking(false).unwrap();
        for stream in [&near, &far] {
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(TURN)).unwrap();
            stream.set_write_timeout(Some(s(600))).unwrap();
        }
        let (mut sends, mut receives) = (near.try_clone().unwrap(), near);
        self.thread(move |shared| {
            let mut buffer = [0; 512];
            while !shared.stop() {
                match far.read(&mut buffer) {
                    Ok(0) => return shared.broken("the other end closed it"),
                    Ok(size) => {
                        if let Err(error) = far.write_all(&buffer[..size]) {
                            return shared.broken(&error.to_string());
                        }
                    }
                    Err(error) if is_timeout(&error) => {}
                    Err(error) => return shared.broken(&error.to_string()),
                }
            }
        });
        self.thread(move |shared| {
            while !shared.stop() {
                if let Err(error) = sends.write_all(&[1; 8]) {
                    return shared.broken(&error.to_string());
                }
                thread::sleep(PERIOD);
            }
        });
        self.thread(move |shared| {
            let mut buffer = [0; 512];
            while !shared.stop() {
                match receives.read(&mut buffer) {
                    Ok(0) => return shared.broken("closed"),
                    Ok(_) => shared.came(),
                    Err(error) if is_timeout(&error) => {}
                    Err(error) => return shared.broken(&error.to_string()),
                }
            }
        });
    }

    fn udp(&mut self, from: &Host, to: &Host, address: SocketAddr) {
        let far = to.inside(|| UdpSocket::bind(address).unwrap());
        let address = far.local_addr().unwrap();
        let near = from.inside(|| {
            let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            UdpSocket::bind(any).unwrap()
        });
        for socket in [&near, &far] {
            socket.set_read_timeout(Some(TURN)).unwrap();
        }
        let sends = near.try_clone().unwrap();
        // A datagram that cannot be sent or that brought back an error is one that was lost.
        self.thread(move |shared| {
            let mut buffer = [0; 512];
            while !shared.stop() {
                if let Ok((size, source)) = far.recv_from(&mut buffer) {
                    drop(far.send_to(&buffer[..size], source));
                }
            }
        });
        self.thread(move |shared| {
            while !shared.stop() {
                drop(sends.send_to(&[1; 8], address));
                thread::sleep(PERIOD);
            }
        });
        self.thread(move |shared| {
            let mut buffer = [0; 512];
            while !shared.stop() {
                if near.recv_from(&mut buffer).is_ok() {
                    shared.came();
                }
            }
        });
    }

    fn thread(&mut self, work: impl FnOnce(&Shared) + Send + 'static) {
        let shared = Arc::clone(&self.shared);
        self.threads.push(thread::spawn(move || work(&shared)));
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.shared.seen.lock().unwrap()
    }

    /// The longest time without anything, up to now.
    pub(crate) fn silence(&self) -> Duration {
        let seen = self.seen();
        seen.longest.max(seen.last.elapsed())
    }

    /// What was is no longer of interest.
    pub(crate) fn forget(&self) {
        let mut seen = self.seen();
        (seen.last, seen.longest, seen.count) = (Instant::now(), Duration::ZERO, 0);
    }

    /// Whether something came since it was last forgotten.
    pub(crate) fn came(&self) -> bool {
        self.seen().count > 0
    }

    /// That it never paused for as long, and goes on.
    pub(crate) fn assert_went_on(&self, limit: Duration) {
        let silence = self.silence();
        assert_eq!(self.seen().broken, None);
        assert!(silence < limit, "nothing came for {silence:?}");
    }

    /// That it stops within a time: then nothing comes for two seconds.
    pub(crate) fn stops(&self, limit: Duration) {
        crate::wait::until(limit + s(2), "the end of a flow", || {
            let seen = self.seen();
            (seen.broken.is_some() || seen.last.elapsed() > s(2)).then_some(())
        });
    }
}

impl Shared {
    fn stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn came(&self) {
        let mut seen = self.seen.lock().unwrap();
        seen.longest = seen.longest.max(seen.last.elapsed());
        seen.last = Instant::now();
        seen.count += 1;
    }

    fn broken(&self, why: &str) {
        self.seen.lock().unwrap().broken.get_or_insert_with(|| why.to_owned());
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn connected(address: SocketAddr, limit: Duration) -> std::io::Result<TcpStream> {
    TcpStream::connect_timeout(&address, limit)
}

/// Whether a TCP connection to there can be had, where somebody listens.
pub(crate) fn connects(from: &Host, to: &Host, address: &str, port: u16) -> bool {
    let address = SocketAddr::new(address.parse::<IpAddr>().unwrap(), port);
    let _listener = to.inside(|| TcpListener::bind(address).unwrap());
    from.inside(|| connected(address, s(3))).is_ok()
}
