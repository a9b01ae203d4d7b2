//! The client: rounds in which every named server is asked, and what more than half of them agree on.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::{Deserialize, Serialize};

use super::certificate::Certificates;
use super::clock::LARGEST_ERROR;
use super::io::{self, Exchanged};
use super::nts::Association;
use super::{Agreed, Report, Sample, TimeError, agree};

/// Between rounds, once the time is known. A clock that drifts 100 ppm is 0.1 s off by then.
const POLL: Duration = Duration::from_secs(1024);
/// After the first round without agreement; doubles up to [`POLL`].
const RETRY: Duration = Duration::from_secs(2);
/// How long a server is left alone that said, authentically, that it does not want us (RFC 5905 section 7.4: DENY, RSTR).
const BANNED: Duration = Duration::from_secs(86_400);

/// One named server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Where its key exchange listens.
    pub address: SocketAddr,
    /// The name that its certificate must carry.
    pub name: String,
}

/// What PID 1 tells the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handover {
    /// The servers, in the document's order.
    pub servers: Vec<Server>,
    /// The image's epoch, in seconds since 1970: no time is earlier.
    pub floor: u64,
    /// Seconds since 1970: no time is later.
    pub horizon: u64,
}

/// The servers, each asked by a thread of its own, and what is known. The threads are there from the start, so that the
/// process can give up the right to make more.
pub struct Client {
    workers: Vec<Worker>,
    known: Option<Sample>,
}

struct Worker {
    address: SocketAddr,
    failure: Option<TimeError>,
    orders: Sender<Order>,
    answers: Receiver<Result<Sample, TimeError>>,
}

/// Ask once.
#[derive(Clone, Copy)]
struct Order {
    now: Duration,
    known: Option<Duration>,
}

/// What all servers are judged by.
struct Trust {
    certificates: Certificates,
    provider: Arc<CryptoProvider>,
    floor: Duration,
    horizon: Duration,
}

struct Source {
    address: SocketAddr,
    name: ServerName<'static>,
    bound: Option<Exchanged>,
    quiet_until: Duration,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("servers", &self.workers.len()).finish_non_exhaustive()
    }
}

impl Client {
    /// Nobody was asked yet. Certificates must lead to one of `roots`, and to nothing else.
    ///
    /// # Errors
    /// No roots, a name that is none, or no threads.
    pub fn new(told: &Handover, roots: RootCertStore) -> Result<Self, TimeError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let (floor, horizon) = (Duration::from_secs(told.floor), Duration::from_secs(told.horizon));
        let certificates = Certificates::new(roots, provider.clone(), floor, horizon)?;
        let trust = Arc::new(Trust { certificates, provider, floor, horizon });
        let workers = told.servers.iter().map(|server| Worker::start(server, trust.clone()));
        Ok(Self { workers: workers.collect::<Result<_, TimeError>>()?, known: None })
    }

    /// Asks every server once, all at the same time, and keeps what more than half of them agree on. Takes no longer than the
    /// slowest of them: a key exchange of 20 s and requests of 6 s.
    ///
    /// # Errors
    /// If the kernel has no clock.
    pub fn round(&mut self) -> Result<Option<Report>, TimeError> {
        let now = io::since_boot()?;
        let order = Order { now, known: self.known.map(|sample| sample.time_at(now)) };
        // A thread that has ended has no answer.
        for worker in &self.workers {
            _ = worker.orders.send(order);
        }
        let mut good = Vec::new();
        for (server, worker) in self.workers.iter_mut().enumerate() {
            worker.failure = None;
            match worker.answers.recv() {
                Ok(Ok(sample)) => good.push((server, sample)),
                Ok(Err(error)) => {
                    tracing::warn!(address = %worker.address, %error, "no time from a server");
                    worker.failure = Some(error);
                }
                Err(_) => tracing::error!(address = %worker.address, "nobody asks this server any more"),
            }
        }
        let named = self.workers.len();
        let Some(Agreed { sample, server, votes }) = agree(&good, named) else {
            tracing::warn!(answers = good.len(), named, "the servers do not agree");
            return Ok(None);
        };
        self.known = Some(sample);
        let small = |number: usize| u8::try_from(number).unwrap_or(u8::MAX);
        Ok(Some(Report { sample, server: small(server), votes: small(votes) }))
    }
}

impl Client {
    /// The servers that gave no time in the last round, and why.
    pub fn failures(&self) -> impl Iterator<Item = (SocketAddr, &TimeError)> {
        self.workers.iter().filter_map(|worker| Some((worker.address, worker.failure.as_ref()?)))
    }
}

impl Worker {
    fn start(server: &Server, trust: Arc<Trust>) -> Result<Self, TimeError> {
        /// TLS with certificates of several kilobytes; a thread's default would be 2 MiB.
        const STACK: usize = 512 << 10;
        let name = ServerName::try_from(server.name.clone())
            .map_err(|_| rustls::Error::General(format!("{:?} is no name", server.name)))?;
        let address = server.address;
        let mut source = Source { address, name, bound: None, quiet_until: Duration::ZERO };
        let (orders, ordered) = channel::<Order>();
        let (answer, answers) = channel();
        let (up, is_up) = channel::<()>();
        std::thread::Builder::new()
            .stack_size(STACK)
            .spawn(move || {
                drop(up);
                while let Ok(Order { now, known }) = ordered.recv() {
                    if answer.send(source.ask(&trust, known, now)).is_err() {
                        break;
                    }
                }
            })
            .map_err(TimeError::io("start a thread"))?;
        // A thread that starts makes calls that one that runs does not; who waits for it can then be confined to less.
        _ = is_up.recv();
        Ok(Self { address, failure: None, orders, answers })
    }
}

impl Source {
    /// One round with this server.
    fn ask(&mut self, trust: &Trust, known: Option<Duration>, now: Duration) -> Result<Sample, TimeError> {
        if now < self.quiet_until {
            return Err(TimeError::answer("a server that may be asked", "one that asked to be left alone"));
        }
        let mut bound = match self.bound.take() {
            Some(bound) if bound.association.cookies() > 0 => bound,
            _ => io::exchange(self.address, &self.name, &trust.certificates, &trust.provider, known)?,
        };
        let asked = self.ask_bound(trust, &mut bound.association, &bound.chain);
        match &asked {
            Ok(_) => self.bound = Some(bound),
            Err(TimeError::Kiss { code, authentic: true }) => {
                let wait = if code == b"RATE" { POLL.saturating_mul(2) } else { BANNED };
                self.quiet_until = now.saturating_add(wait);
                self.bound = Some(bound);
            }
            // It does not know our cookies any more (RFC 8915 section 5.7), or it is none that we want: new keys next time.
            Err(TimeError::Kiss { .. } | TimeError::Tls(_)) => {}
            // It may be back before the cookies are used up.
            Err(_) => self.bound = Some(bound),
        }
        asked
    }

    fn ask_bound(
        &self,
        trust: &Trust,
        association: &mut Association,
        chain: &[CertificateDer<'static>],
    ) -> Result<Sample, TimeError> {
        let sample = io::ask(association, self.address.ip(), trust.floor)?;
        if sample.error > LARGEST_ERROR {
            return Err(TimeError::TooVague(sample.error));
        }
        let time = sample.time.as_secs();
        if sample.time.saturating_add(sample.error) < trust.floor {
            return Err(TimeError::BelowFloor { time, floor: trust.floor.as_secs() });
        }
        if sample.time.saturating_sub(sample.error) > trust.horizon {
            return Err(TimeError::BeyondHorizon { time, horizon: trust.horizon.as_secs() });
        }
        // The certificate was good at some time; now there is a time at which it must be.
        trust.certificates.valid_at(chain, &self.name, sample.time)?;
        Ok(sample)
    }
}

/// Asks for ever, and tells what is agreed on.
///
/// # Errors
/// When it cannot go on: PID 1 does not listen any more.
pub fn run(
    mut client: Client,
    mut tell: impl FnMut(&Report) -> std::io::Result<()>,
) -> Result<Infallible, TimeError> {
    let mut failures = 0_u32;
    loop {
        match client.round()? {
            Some(report) => {
                failures = 0;
                tell(&report).map_err(TimeError::io("report"))?;
            }
            None => failures = failures.saturating_add(1),
        }
        std::thread::sleep(pause(failures));
    }
}

/// Until the next round, after so many without agreement in a row.
fn pause(failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => POLL,
        Some(more) => RETRY.saturating_mul(2_u32.saturating_pow(more)).min(POLL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_server_is_asked_less_and_less() {
        let seconds: Vec<u64> = (0..12).map(|failures| pause(failures).as_secs()).collect();
        assert_eq!(seconds, [1024, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1024]);
        assert_eq!(pause(u32::MAX), POLL);
    }
}
