//! A hostile host on the guest's wire: the other end of QEMU's `-netdev socket`, which answers ARP and DHCP with whatever
//! a test chooses and records every frame that the guest sends. QEMU's own user network cannot lie; this can.
//!
//! ```no_run
//! use casemate_tests::hostile_dhcp::{Answer, Kind, Peer};
//!
//! let peer = Peer::listen(|asked| {
//!     let good = Answer::to(asked);
//!     let mut all = good.spoiled();
//!     all.push(good.with_hostile_options().bytes());
//!     all
//! })?;
//! // qemu-system-x86_64 … -netdev <peer.netdev("net0")> -device virtio-net-pci,netdev=net0
//! assert!(peer.frames().iter().all(|frame| frame.dhcp_kind() != Some(Kind::Other)));
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! The wire format is that of QEMU's net/socket.c: TCP, each Ethernet frame after its length in 4 bytes, big endian. QEMU
//! connects; the peer listens on a free port of 127.0.0.1 and serves one QEMU after the other.

mod answer;
mod frame;

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

pub use answer::{ATTACKER, Answer, Asked, GATEWAY, GUEST, Kind};
pub use frame::{Frame, Summary};

/// The peer's hardware address, for whatever address it is asked: locally administered.
pub const MAC: [u8; 6] = [0x02, 0x68, 0x6f, 0x73, 0x74, 0x01];

/// A running peer. It stops when it is dropped.
#[derive(Debug)]
pub struct Peer {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    recorded: Arc<Mutex<Vec<Frame>>>,
    /// Frames that a test has put on the wire.
    queued: Arc<Mutex<Vec<Vec<u8>>>>,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    /// Starts one. `answers` gets each DHCP message of the guest and gives the DHCP messages to send back, in order, each
    /// broadcast in a frame of its own. ARP is answered for every address that is asked for, with [`MAC`], but for the
    /// addresses in a DHCP answer's `yiaddr`: claiming everything is what a hostile neighbour would do.
    ///
    /// # Errors
    /// If no port can be had.
    pub fn listen(answers: impl FnMut(&Asked) -> Vec<Vec<u8>> + Send + 'static) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let recorded = Arc::new(Mutex::new(Vec::new()));
        let queued = Arc::new(Mutex::new(Vec::new()));
        let mut wire = Wire {
            stop: Arc::clone(&stop),
            recorded: Arc::clone(&recorded),
            queued: Arc::clone(&queued),
            answers,
            given: Vec::new(),
        };
        let thread = std::thread::Builder::new()
            .name("hostile-dhcp".to_owned())
            .spawn(move || wire.serve(&listener))?;
        Ok(Self { address, stop, recorded, queued, thread: Some(thread) })
    }

    /// The argument of `-netdev`.
    pub fn netdev(&self, id: &str) -> String {
        format!("socket,id={id},connect={}", self.address)
    }

    /// Where QEMU connects.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Puts a frame on the wire, as it is.
    pub fn send(&self, frame: Vec<u8>) {
        lock(&self.queued).push(frame);
    }

    /// How many of them are not on the wire yet.
    pub fn queued(&self) -> usize {
        lock(&self.queued).len()
    }

    /// Every frame that the guest has sent so far, in order.
    pub fn frames(&self) -> Vec<Frame> {
        lock(&self.recorded).clone()
    }

    /// Waits until a recorded frame satisfies the condition; `None` if none did in time.
    pub fn wait_for(&self, patience: Duration, condition: impl Fn(&Frame) -> bool) -> Option<Frame> {
        let mut waited = Duration::ZERO;
        loop {
            if let Some(frame) = lock(&self.recorded).iter().find(|frame| condition(frame)) {
                return Some(frame.clone());
            }
            if waited >= patience {
                return None;
            }
            std::thread::sleep(TICK);
            waited += TICK;
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let joined = thread.join();
            // A panic of the test's own closure must not pass unseen, nor become an abort while unwinding.
            if !std::thread::panicking() {
                assert!(joined.is_ok(), "the hostile peer's thread panicked");
            }
        }
    }
}

struct Wire<A> {
    stop: Arc<AtomicBool>,
    recorded: Arc<Mutex<Vec<Frame>>>,
    queued: Arc<Mutex<Vec<Vec<u8>>>>,
    answers: A,
    /// Addresses that the guest was given: its probes for them are not answered.
    given: Vec<[u8; 4]>,
}

impl<A: FnMut(&Asked) -> Vec<Vec<u8>>> Wire<A> {
    fn serve(&mut self, listener: &TcpListener) {
        while !self.stop.load(Ordering::Relaxed) {
            match listener.accept() {
                // The end of one QEMU, whatever the reason, is not the end of the peer.
                Ok((stream, _)) => drop(self.talk(stream)),
                Err(_) => std::thread::sleep(TICK),
            }
        }
    }

    fn talk(&mut self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(TICK))?;
        stream.set_write_timeout(Some(Duration::from_secs(5)))?;
        stream.set_nodelay(true)?;
        let mut pending = Vec::new();
        let mut chunk = [0; 4096];
        while !self.stop.load(Ordering::Relaxed) {
            let queued = std::mem::take(&mut *lock(&self.queued));
            for frame in queued {
                stream.write_all(&frame::prefixed(&frame)?)?;
            }
            match stream.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(len) => pending.extend_from_slice(chunk.get(..len).unwrap_or_default()),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
                Err(error) => return Err(error),
            }
            while let Some(frame) = frame::take(&mut pending)? {
                for answer in self.hear(&frame) {
                    stream.write_all(&frame::prefixed(&answer)?)?;
                }
            }
        }
        Ok(())
    }

    /// Records a frame, and says what to send for it.
    fn hear(&mut self, frame: &Frame) -> Vec<Vec<u8>> {
        lock(&self.recorded).push(frame.clone());
        if let Some(reply) = frame.arp_reply(MAC, &self.given) {
            return vec![reply];
        }
        let Some(asked) = frame.dhcp() else { return Vec::new() };
        let messages = (self.answers)(&asked);
        self.given.extend(messages.iter().filter_map(|message| answer::your_address(message)));
        messages.iter().map(|message| frame::broadcast_dhcp(MAC, asked.server_address(), message)).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long a thread sleeps before it looks again.
const TICK: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests;
