//! A TEE that takes its time: one quote is made at a time, few wait, and nobody else does.
#![cfg(feature = "simulator")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use casemate_measure::{LaunchRegisters, Register};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use super::*;
use crate::server::limits::QUOTES_OF_ONE_UID;
use crate::server::tests::handover;
use crate::simulator::SimulatedTee;
use crate::tee::{Tee, TeeError, TeeKind};

const PATIENCE: Duration = Duration::from_secs(20);

/// Quotes only when it is let.
#[derive(Debug)]
struct SlowTee {
    inner: SimulatedTee,
    let_go: Mutex<Receiver<()>>,
    seen: Arc<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Quotes that were begun.
    begun: AtomicUsize,
    at_once: AtomicUsize,
    /// The most at once.
    most: AtomicUsize,
}

impl Tee for SlowTee {
    fn kind(&self) -> TeeKind {
        self.inner.kind()
    }
    fn launch(&self) -> LaunchRegisters {
        self.inner.launch()
    }
    fn rtmr3(&self) -> Register {
        self.inner.rtmr3()
    }
    fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, TeeError> {
        let at_once = self.seen.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.seen.most.fetch_max(at_once, Ordering::SeqCst);
        self.seen.begun.fetch_add(1, Ordering::SeqCst);
        let told = self.let_go.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(PATIENCE);
        self.seen.at_once.fetch_sub(1, Ordering::SeqCst);
        told.expect("let go in time");
        self.inner.quote(report_data)
    }
}

struct Served {
    _dir: TempDir,
    socket: PathBuf,
    let_go: Sender<()>,
    seen: Arc<Seen>,
}

impl Served {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("dstack.sock");
        let (let_go, receiver) = channel();
        let seen = Arc::new(Seen::default());
        let handover = handover("{}");
        let mut inner = SimulatedTee::new(LaunchRegisters::ZERO).unwrap();
        handover.events.events().iter().for_each(|event| inner.extend(&event.digest()));
        let tee = SlowTee { inner, let_go: Mutex::new(receiver), seen: Arc::clone(&seen) };
        // For the local CA's own evidence.
        let_go.send(()).unwrap();
        let agent = Agent::with(handover, Box::new(tee)).unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(serve_to(listener, agent, Callers::Anyone));
        Self { _dir: dir, socket, let_go, seen }
    }

    /// Quotes begun since the start.
    fn begun(&self) -> usize {
        self.seen.begun.load(Ordering::SeqCst) - 1
    }

    async fn until_begun(&self, count: usize) {
        let looking = async {
            while self.begun() < count {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, looking).await.expect("begun in time");
    }
}

async fn ask(socket: &Path, method: &str) -> UnixStream {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let request = format!("GET /{method} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn answer(mut stream: UnixStream) -> String {
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("answered in time").unwrap();
    answer
}

#[tokio::test]
async fn one_slow_quote_does_not_stall_the_others() {
    let served = Served::start().await;
    let first = ask(&served.socket, "GetQuote").await;
    served.until_begun(1).await;
    let second = ask(&served.socket, "GetTlsKey?usage_ra_tls=true").await;
    for method in ["Version", "Info", "GetKey", "GetTlsKey?usage_server_auth=true", "NoSuch"] {
        let said = answer(ask(&served.socket, method).await).await;
        assert!(said.starts_with("HTTP/1.1 "), "{method}: {said}");
    }
    assert_eq!(served.begun(), 1, "one at a time");
    served.let_go.send(()).unwrap();
    assert!(answer(first).await.starts_with("HTTP/1.1 200 OK"));
    served.let_go.send(()).unwrap();
    assert!(answer(second).await.starts_with("HTTP/1.1 200 OK"));
    assert_eq!((served.begun(), served.seen.most.load(Ordering::SeqCst)), (2, 1));
}

#[tokio::test]
async fn few_wait_and_the_next_is_told_so() {
    let served = Served::start().await;
    let mut waiting = Vec::new();
    for _ in 0..QUOTES_OF_ONE_UID {
        waiting.push(ask(&served.socket, "GetQuote").await);
    }
    served.until_begun(1).await;
    // Whoever comes while all places are taken is refused; those before are in the server's hands already.
    let refused = timeout(PATIENCE, async {
        loop {
            let probe = ask(&served.socket, "GetQuote").await;
            if let Ok(said) = timeout(Duration::from_millis(500), answer(probe)).await {
                return said;
            }
        }
    });
    let refused = refused.await.unwrap();
    assert!(refused.starts_with("HTTP/1.1 400 Bad Request"), "{refused}");
    assert!(
        refused.contains("too many calls wait for a quote: expected at most 16, and 8 of one uid"),
        "{refused}"
    );
    for _ in 0..QUOTES_OF_ONE_UID {
        served.let_go.send(()).unwrap();
    }
    for stream in waiting {
        assert!(answer(stream).await.starts_with("HTTP/1.1 200 OK"));
    }
    // The places are free again.
    served.let_go.send(()).unwrap();
    assert!(answer(ask(&served.socket, "GetQuote").await).await.starts_with("HTTP/1.1 200 OK"));
    assert_eq!(served.seen.most.load(Ordering::SeqCst), 1);
}

/// Also when nobody waits for the work any more, the next waits for its end.
#[tokio::test]
async fn work_that_has_begun_keeps_its_turn() {
    let quotes = Arc::new(Quotes::new());
    let (begun, has_begun) = channel();
    let (let_go, is_let_go) = channel::<()>();
    let of_first = Arc::clone(&quotes);
    let first = tokio::spawn(async move {
        let work = move || {
            begun.send(()).unwrap();
            is_let_go.recv_timeout(PATIENCE).unwrap();
        };
        of_first.in_turn(1000, work).await
    });
    let spinning = async {
        while has_begun.try_recv().is_err() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, spinning).await.unwrap();
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    let mut second = pin!(quotes.in_turn(1001, || 2));
    assert!(timeout(Duration::from_millis(200), second.as_mut()).await.is_err(), "two at once");
    let_go.send(()).unwrap();
    assert_eq!(timeout(PATIENCE, second).await.unwrap().unwrap(), 2);
    // Whoever is dropped while waiting leaves the queue, and all places are free again.
    for _ in 0..3 * QUOTES_OF_ONE_UID {
        drop(quotes.in_turn(1000, || ()));
        quotes.in_turn(1000, || ()).await.unwrap();
    }
}
