//! From one queue of the TUN to the peers.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use super::peer::Peer;
use super::table::Table;
use super::{Reason, Shared, policy};
use crate::engine::{OVERHEAD, slot_len};
use crate::packet::{Packet, Split, VnetHeader};
use crate::published::Reader;
use crate::sys::{Ready, Tun, Udp, wait};

/// What one read may give.
const INPUT: usize = VnetHeader::LEN + 65_535;
/// Sealed packets of one send, and room for one that begins another.
const OUTPUT: usize = 65_536 + 2048;
/// How long a TUN that fails is left alone.
const PAUSE: Duration = Duration::from_millis(100);

/// Sealed packets of one peer and one length, the last perhaps shorter: what one send takes.
#[derive(Debug)]
struct Batch {
    peer: Option<Arc<Peer>>,
    bytes: Vec<u8>,
    filled: usize,
    size: usize,
    packets: usize,
    plain: usize,
    full: bool,
}

impl Batch {
    /// Whether a packet of this length can be the next.
    fn takes(&self, len: usize) -> bool {
        let sealed = len + OVERHEAD;
        self.packets == 0
            || !self.full
                && sealed <= self.size
                && self.packets < Udp::max_segments(self.size)
                && self.filled + slot_len(len) <= self.bytes.len()
    }

    fn added(&mut self, sealed: usize, plain: usize) {
        if self.packets == 0 {
            self.size = sealed;
        }
        self.full = sealed < self.size;
        self.filled += sealed;
        self.packets += 1;
        self.plain += plain;
    }
}

struct Outbound<'a> {
    shared: &'a Shared,
    table: Reader<Table>,
    batch: Batch,
}

pub(super) fn run(shared: &Shared, tun: Tun) {
    let mut input = vec![0; INPUT];
    let batch =
        Batch { peer: None, bytes: vec![0; OUTPUT], filled: 0, size: 0, packets: 0, plain: 0, full: false };
    let mut outbound = Outbound { shared, table: shared.table.reader(), batch };
    while !shared.stopped() {
        match tun.read(&mut input) {
            Ok(length) => outbound.take(input.get_mut(..length).unwrap_or_default()),
            Err(error) => {
                outbound.flush();
                let waited = match (error.kind(), error.raw_os_error()) {
                    (io::ErrorKind::WouldBlock, _) => wait(Some(tun.as_fd()), &shared.wake, None),
                    // The interface is gone (drivers/net/tun.c, `tun_chr_read_iter`), and this queue is nobody's: the node ends.
                    (_, Some(libc::EBADFD)) => return,
                    // Anything else passes; poll would say at once that there is something.
                    _ => wait(None, &shared.wake, Some(PAUSE)),
                };
                if !matches!(waited, Ok(Ready::Descriptor | Ready::TimedOut)) {
                    return;
                }
            }
        }
    }
}

impl Outbound<'_> {
    /// Takes what one read gave.
    fn take(&mut self, bytes: &mut [u8]) {
        let shared = self.shared;
        let Some((header, bytes)) = VnetHeader::parse(bytes) else {
            return shared.counters.count(Reason::Malformed, 1);
        };
        let Ok(packet) = Packet::parse(bytes) else {
            return shared.counters.count(Reason::Malformed, 1);
        };
        let table = Arc::clone(self.table.get());
        let Some(peer) = table.owner(packet.destination()) else {
            return shared.counters.count(Reason::NoPeer, 1);
        };
        // What is routed here from elsewhere is no packet of this node: its addresses would leak, and no peer would take it.
        if !table.is_ours(packet.source()) {
            return shared.counters.count(Reason::ForeignSource, 1);
        }
        policy::record_outbound(&table, &shared.flows, peer, &packet, shared.seconds());
        let Ok(split) = Split::new(&header, bytes) else {
            return shared.counters.count(Reason::Malformed, 1);
        };
        if !self.batch.peer.as_ref().is_some_and(|now| Arc::ptr_eq(now, peer)) {
            self.flush();
            self.batch.peer = Some(Arc::clone(peer));
        }
        self.seal(&table, peer, split);
    }

    /// Seals the packets of one read, and sends as often as a send is full.
    fn seal(&mut self, table: &Table, peer: &Arc<Peer>, mut split: Split<'_>) {
        let shared = self.shared;
        let now = shared.now();
        let Some(tunnel) = shared.tunnel(table, peer) else { return };
        let Some(sender) = tunnel.sender(now) else {
            return self.wait(table, peer, split);
        };
        let mut sealed_any = false;
        while let Some(length) = split.next_len() {
            if !self.batch.takes(length) {
                self.flush();
            }
            let batch = &mut self.batch;
            let (Some(packet), Some(slot)) = (split.next_packet(), batch.bytes.get_mut(batch.filled..))
            else {
                break;
            };
            match sender.seal(packet, slot) {
                Some(sealed) => {
                    batch.added(sealed, length);
                    sealed_any = true;
                }
                None => shared.counters.count(Reason::NoSession, 1),
            }
        }
        if sealed_any {
            tunnel.sent(now);
        }
    }

    /// Keeps the packets of one read until there is a session, and sees to it that there will be one.
    fn wait(&self, table: &Table, peer: &Arc<Peer>, mut split: Split<'_>) {
        let shared = self.shared;
        while let Some(packet) = split.next_packet() {
            shared.counters.count(Reason::WaitingFull, usize::from(!peer.wait(&shared.waiting, packet)));
        }
        shared.initiate(table, peer, false);
        // The session may have been made just before they waited.
        shared.send_waiting(table, peer);
        shared.want(peer);
    }

    fn flush(&mut self) {
        let batch = &mut self.batch;
        let Some(peer) = batch.peer.as_ref() else { return };
        if let Some(bytes) = batch.bytes.get(..batch.filled)
            && batch.packets > 0
        {
            self.shared.send(peer, bytes, batch.size);
            peer.sent(batch.packets, batch.plain, self.shared.now());
        }
        batch.filled = 0;
        batch.packets = 0;
        batch.plain = 0;
        batch.full = false;
    }
}
