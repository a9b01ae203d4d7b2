//! The task of one region: connects, holds the connection, tries again.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::{AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{sleep, sleep_until, timeout};
use tracing::{debug, info};

use super::connection::{ConnectError, Connection, ReadError, Stream, connect, next_frame};
use super::frame::{Decoder, Frame, encode, encode_send};
use super::pool::{Event, Network, Outgoing, Packet, PoolConfig, Shared, Wanted};
use crate::dial::has_source;
use crate::key::fill_random;
use crate::netmap::{DerpNode, RegionId};

pub(super) struct Task {
    pub(super) region: RegionId,
    pub(super) config: Arc<PoolConfig>,
    pub(super) wanted: watch::Receiver<Wanted>,
    pub(super) queue: mpsc::Receiver<Outgoing>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) shared: Arc<Shared>,
    pub(super) probes: Arc<Semaphore>,
    pub(super) timing: Timing,
}

/// How long things take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    /// After this long a connection has been a good one.
    pub(super) steady: Duration,
    /// The first wait after a failure.
    pub(super) min_back_off: Duration,
    /// The longest wait after failures.
    pub(super) max_back_off: Duration,
    /// Silence after which a relay is dead.
    pub(super) watchdog: Duration,
    /// How long an answer may take after our network changed, or when somebody wants to know.
    pub(super) answer: Duration,
    /// After this long without use, a connection that is not home is closed.
    pub(super) idle: Duration,
    /// How often that is looked at.
    pub(super) idle_check: Duration,
    /// How long a connection that was only tried stands: for so long home may become it.
    pub(super) tried: Duration,
}

impl Timing {
    /// A relay sends a keep-alive every 60 to 65 s (`derp.KeepAlive`): two missed, it is dead. Idle: tailscale
    /// `wgengine/magicsock`, `derpInactiveCleanupTime` and its check; the answer: `maybeCloseDERPsOnRebind`. The back-off is
    /// ours, and what is tried: each of hundreds of regions holds one of a few places for that long.
    pub(super) const REAL: Self = Self {
        steady: Duration::from_secs(30),
        min_back_off: Duration::from_secs(1),
        max_back_off: Duration::from_secs(30),
        watchdog: Duration::from_secs(130),
        answer: Duration::from_secs(3),
        idle: Duration::from_secs(60),
        idle_check: Duration::from_secs(15),
        tried: Duration::from_secs(2),
    };

    /// The first wait, doubled with each failure up to the longest; each somewhere between its half and its whole. What the server
    /// said makes it longer, not shorter: one that says each time that it is back at once would be stormed.
    pub(super) fn back_off(&self, failures: u32, said: Option<Duration>) -> Duration {
        let doubled = self.min_back_off.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
        jitter(doubled.max(said.unwrap_or_default()).min(self.max_back_off))
    }
}

/// Why a connection ended.
enum End {
    /// Nobody used it.
    Idle,
    /// The map gives the region other servers.
    MapChanged,
    /// Our network is another.
    Moved,
    /// The pool is gone.
    Over,
    /// It broke. What the server said about coming back, if it did.
    Broken(String, Option<Duration>),
}

impl Task {
    pub(super) async fn run(mut self) {
        let mut failures = 0_u32;
        // What woke us while there was no connection: it goes out first.
        let mut first = None;
        loop {
            if !self.is_home() && first.is_none() {
                tokio::select! {
                    batch = self.queue.recv() => match batch {
                        Some(batch) => first = Some(batch),
                        None => return,
                    },
                    changed = self.wanted.changed() => if changed.is_err() { return },
                }
                continue;
            }
            let Some(mut place) = self.place(&mut first).await else { return };
            let network = self.wanted.borrow().network;
            let started = Instant::now();
            let Some(connected) = self.connect_unless_moved(network).await else { continue };
            let wait = match connected {
                Ok((connection, nodes)) => {
                    let took = started.elapsed();
                    info!(region = self.region.0, ?took, "relay connected");
                    let end = self.hold(connection, &nodes, (&mut first, &mut place), took, network).await;
                    // A server that drops us at once is not to be stormed.
                    if started.elapsed() >= self.timing.steady {
                        failures = 0;
                    }
                    match end {
                        End::Over => return,
                        End::Idle | End::MapChanged => {
                            self.tell(Event::Disconnected { region: self.region, why: None }).await;
                            None
                        }
                        End::Moved => {
                            let why = "our network changed".to_owned();
                            info!(region = self.region.0, why, "relay lost");
                            self.tell(Event::Disconnected { region: self.region, why: Some(why) }).await;
                            None
                        }
                        End::Broken(why, after) => {
                            info!(region = self.region.0, why, "relay lost");
                            if let Some(batch) = first.take() {
                                self.dropped(&batch);
                            }
                            self.tell(Event::Disconnected { region: self.region, why: Some(why) }).await;
                            failures = failures.saturating_add(1);
                            Some(self.timing.back_off(failures, after))
                        }
                    }
                }
                Err(error) => {
                    let why = error.to_string();
                    debug!(region = self.region.0, why, "no relay");
                    if let Some(batch) = first.take() {
                        self.dropped(&batch);
                    }
                    self.drop_queue();
                    self.tell(Event::Disconnected { region: self.region, why: Some(why) }).await;
                    failures = failures.saturating_add(1);
                    Some(self.timing.back_off(failures, None))
                }
            };
            drop(place);
            if let Some(wait) = wait
                && !self.pause(wait).await
            {
                return;
            }
        }
    }

    fn is_home(&self) -> bool {
        self.wanted.borrow().home == Some(self.region)
    }

    /// Waits for a place if the region is only tried; what is to be sent meanwhile needs none. `None`: the pool is gone.
    async fn place(&mut self, first: &mut Option<Outgoing>) -> Option<Option<OwnedSemaphorePermit>> {
        loop {
            if self.is_home() || first.as_ref().is_none_or(|first| !first.bytes.is_empty()) {
                return Some(None);
            }
            let probes = Arc::clone(&self.probes);
            tokio::select! {
                place = probes.acquire_owned() => return place.ok().map(Some),
                batch = self.queue.recv() => *first = Some(batch?),
                changed = self.wanted.changed() => changed.ok()?,
            }
        }
    }

    /// `None`: the network changed meanwhile.
    async fn connect_unless_moved(
        &mut self,
        network: Network,
    ) -> Option<Result<(Connection, Vec<DerpNode>), ConnectError>> {
        let mut wanted = self.wanted.clone();
        let moved = async {
            // A pool that is gone ends this task.
            if wanted.wait_for(|wanted| wanted.network != network).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            connected = self.connect() => Some(connected),
            () = moved => None,
        }
    }

    /// A connection, and the servers that the map gave the region when it was begun.
    async fn connect(&mut self) -> Result<(Connection, Vec<DerpNode>), ConnectError> {
        let nodes = self.nodes();
        let mut last = ConnectError::NoServer;
        for node in nodes.iter().filter(|node| !node.stun_only) {
            match connect(node, &self.config.trust, &*self.config.dial, &self.config.ours).await {
                Ok(connection) => return Ok((connection, nodes)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Waits, dropping what is to be sent meanwhile; a change of the map or of home ends it. `false`: the pool is gone.
    async fn pause(&mut self, wait: Duration) -> bool {
        let pause = sleep(wait);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => return true,
                changed = self.wanted.changed() => return changed.is_ok(),
                batch = self.queue.recv() => match batch {
                    Some(batch) => self.dropped(&batch),
                    None => return false,
                },
            }
        }
    }

    async fn hold(
        &mut self,
        connection: Connection,
        nodes: &[DerpNode],
        first: (&mut Option<Outgoing>, &mut Option<OwnedSemaphorePermit>),
        took: Duration,
        network: Network,
    ) -> End {
        let Connection { stream, decoder, local, .. } = connection;
        let (read, write) = tokio::io::split(stream);
        let region = self.region;
        self.shared.connected.store(true, Ordering::Relaxed);
        *self.shared.last_frame.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.tell(Event::Connected { region, took }).await;
        let (pongs, pings) = mpsc::channel(PINGS);
        let reader = Reader {
            region,
            read,
            decoder,
            pongs,
            events: self.events.clone(),
            shared: Arc::clone(&self.shared),
            timing: self.timing,
        };
        let read = reader.run();
        let write = self.write(write, nodes, first, pings, (network, local));
        let end = tokio::select! {
            end = read => end,
            end = write => end,
        };
        self.shared.connected.store(false, Ordering::Relaxed);
        end
    }

    /// Writes until the connection ends: everything that waits in one flush. `first` is left where it is until it is written: the
    /// connection may end before.
    async fn write(
        &mut self,
        mut stream: WriteHalf<Box<dyn Stream>>,
        nodes: &[DerpNode],
        (first, place): (&mut Option<Outgoing>, &mut Option<OwnedSemaphorePermit>),
        mut pings: mpsc::Receiver<[u8; 8]>,
        (mut network, local): (Network, Option<SocketAddr>),
    ) -> End {
        let mut out = BytesMut::new();
        // The map may have changed while we connected.
        if self.nodes() != nodes {
            return End::MapChanged;
        }
        let mut home = self.is_home();
        if home {
            encode(&Frame::NotePreferred(true), &mut out);
        }
        if let Some(batch) = first.take() {
            self.put(&batch, &mut out);
        }
        let mut last_sent = Instant::now();
        let mut used = false;
        let Timing { idle, idle_check, tried, .. } = self.timing;
        // When the relay was asked whether it still hears us.
        let mut asked: Option<Instant> = None;
        loop {
            let now = self.wanted.borrow().network;
            if now != network {
                if now.losses != network.losses || local.is_some_and(|local| !has_source(local)) {
                    return End::Moved;
                }
                network = now;
                ask(&mut asked, &mut out);
            }
            if let Some(at) = asked {
                let heard = *self.shared.last_frame.lock().unwrap_or_else(PoisonError::into_inner);
                if heard.is_some_and(|heard| heard > at) {
                    asked = None;
                } else if at.elapsed() >= self.timing.answer {
                    return End::Broken("no answer when asked".to_owned(), None);
                }
            }
            while out.len() < WRITE_BATCH
                && let Ok(batch) = self.queue.try_recv()
            {
                used |= !batch.bytes.is_empty();
                self.put(&batch, &mut out);
                if batch.bytes.is_empty() {
                    ask(&mut asked, &mut out);
                }
            }
            if !out.is_empty() {
                if let Err(error) = flush(&mut stream, &out).await {
                    return End::Broken(error.to_string(), None);
                }
                out.clear();
                if out.capacity() > 2 * WRITE_BATCH {
                    out = BytesMut::new();
                }
            }
            // What is used, or is home, is no longer only tried.
            if home || used {
                *place = None;
            }
            let idle = if place.is_some() { tried } else { idle };
            let idle_at = Instant::now() + idle_check.min(idle);
            let next = asked.map_or(idle_at, |at| idle_at.min(at + self.timing.answer));
            tokio::select! {
                batch = self.queue.recv() => match batch {
                    Some(batch) => {
                        used |= !batch.bytes.is_empty();
                        last_sent = Instant::now();
                        self.put(&batch, &mut out);
                        // Who wants to know whether it answers must hear of it also if it does not: the watchdog takes minutes.
                        if batch.bytes.is_empty() {
                            ask(&mut asked, &mut out);
                        }
                    }
                    None => return End::Over,
                },
                ping = pings.recv() => match ping {
                    Some(data) => encode(&Frame::Pong(data), &mut out),
                    None => return End::Over,
                },
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return End::Over;
                    }
                    if self.nodes() != nodes {
                        return End::MapChanged;
                    }
                    if home != self.is_home() {
                        home = !home;
                        last_sent = Instant::now();
                        encode(&Frame::NotePreferred(home), &mut out);
                    }
                },
                () = sleep_until(next.into()) => if !home && last_sent.elapsed() >= idle { return End::Idle },
            }
        }
    }

    fn nodes(&mut self) -> Vec<DerpNode> {
        let wanted = self.wanted.borrow_and_update();
        wanted.map.regions.get(&self.region).map(|region| region.nodes.clone()).unwrap_or_default()
    }

    fn put(&self, batch: &Outgoing, out: &mut BytesMut) {
        self.shared.queued.fetch_sub(batch.bytes.len(), Ordering::Relaxed);
        for packet in batch.bytes.chunks(batch.segment.max(1)) {
            encode_send(&batch.to, packet, out);
        }
    }

    fn drop_queue(&mut self) {
        while let Ok(batch) = self.queue.try_recv() {
            self.dropped(&batch);
        }
    }

    fn dropped(&self, batch: &Outgoing) {
        self.shared.queued.fetch_sub(batch.bytes.len(), Ordering::Relaxed);
        // A probe has nothing in it that could be lost.
        let lost = u64::from(!batch.bytes.is_empty());
        self.shared.dropped_out.fetch_add(lost, Ordering::Relaxed);
    }

    /// An event that must not be lost; who takes them being gone, so are we soon.
    async fn tell(&self, event: Event) {
        let _gone = self.events.send(event).await;
    }
}

/// Reads until the connection ends.
struct Reader {
    region: RegionId,
    read: ReadHalf<Box<dyn Stream>>,
    decoder: Decoder,
    pongs: mpsc::Sender<[u8; 8]>,
    events: mpsc::Sender<Event>,
    shared: Arc<Shared>,
    timing: Timing,
}

impl Reader {
    async fn run(mut self) -> End {
        let mut comeback = None;
        loop {
            let frame = match timeout(self.timing.watchdog, self.next()).await {
                Ok(Ok(frame)) => frame,
                Ok(Err(error)) => return End::Broken(error.to_string(), comeback),
                Err(_) => return End::Broken("the relay has gone silent".to_owned(), comeback),
            };
            *self.shared.last_frame.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            let mut next = Some(frame);
            let mut packets = Vec::new();
            while let Some(frame) = next {
                match frame {
                    Frame::RecvPacket { from, packet } => packets.push(Packet { src: from, packet }),
                    // More pings than can be answered are not answered.
                    Frame::Ping(data) => drop(self.pongs.try_send(data)),
                    Frame::PeerGone { peer, reason } => {
                        let event = Event::PeerGone { region: self.region, peer, reason };
                        // Without room it is lost: it is a hint, and takes no room from packets that wait for theirs.
                        drop(self.events.try_send(event));
                    }
                    Frame::Restarting { after_millis, .. } => {
                        comeback = Some(Duration::from_millis(after_millis.into()));
                    }
                    Frame::Health(text) if !text.is_empty() && self.shared.may_log(Instant::now()) => {
                        let text = text.chars().take(200).collect::<String>().escape_debug().to_string();
                        info!(region = self.region.0, text, "the relay says that something is wrong");
                    }
                    _ => {}
                }
                next = match self.decoder.next_frame() {
                    Ok(next) => next,
                    Err(error) => return End::Broken(error.to_string(), comeback),
                };
            }
            hand_over(self.region, packets, &self.events, &self.shared).await;
        }
    }

    async fn next(&mut self) -> Result<Frame, ReadError> {
        next_frame(&mut self.read, &mut self.decoder).await
    }
}

/// Waits until there is room: who brings more than is taken is held up by TCP, and takes no other relay's room.
async fn hand_over(region: RegionId, packets: Vec<Packet>, events: &mpsc::Sender<Event>, shared: &Shared) {
    let count = packets.len() as u64;
    if count > 0 && events.send(Event::Received { region, packets }).await.is_err() {
        shared.dropped_in.fetch_add(count, Ordering::Relaxed);
    }
}

/// Asks the relay whether it still hears us, if it was not asked yet.
fn ask(asked: &mut Option<Instant>, out: &mut BytesMut) {
    let mut number = [0; 8];
    // Without random bytes it is zeros: whether it is this answer does not matter, any frame is one.
    let _zeros = fill_random(&mut number);
    encode(&Frame::Ping(number), out);
    asked.get_or_insert_with(Instant::now);
}

async fn flush<W: AsyncWrite + Unpin>(stream: &mut W, out: &[u8]) -> std::io::Result<()> {
    let write = async {
        stream.write_all(out).await?;
        stream.flush().await
    };
    timeout(WRITE_TIMEOUT, write).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

fn jitter(most: Duration) -> Duration {
    let mut random = [0; 2];
    // Without random bytes: the whole.
    let part = fill_random(&mut random).map_or(u16::MAX, |()| u16::from_be_bytes(random));
    most / 2 + most.mul_f64(f64::from(part) / 65_535.0 / 2.0)
}

const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// What goes out in one flush.
const WRITE_BATCH: usize = 64 << 10;
const PINGS: usize = 4;
