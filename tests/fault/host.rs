//! A host that feeds garbage on what it owns: the wire, the status port, the random number device, the clock, the reset
//! button. The machine goes on, and nothing leaves it that must not.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use casemate_measure::status::{FRAME_LEN, Frame, Reason, Stage};
use casemate_qemu::shape::Network;
use casemate_qemu::status_stream::{Item, StatusStream};
use casemate_tests::hostile_dhcp::{Answer, GATEWAY, GUEST, Peer, Summary};

use crate::images::lock;
use crate::machine::{Machine, Options, PATIENCE, qemu};
use crate::processes::{FAST, NOT_READY, image};

const TCP: u8 = 6;
const UDP: u8 = 17;
/// The document's time server is the gateway, at this port.
const TIME_SERVER: u16 = 4460;
/// How many frames are thrown at the guest.
const GARBAGE: usize = 3000;

/// Pseudo-random bytes, the same in each run (xorshift64*, Vigna 2016).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next().to_le_bytes()[7]).collect()
    }

    fn below(&mut self, limit: u64) -> usize {
        usize::try_from(self.next() % limit).unwrap()
    }

    /// A frame to the guest or to all, of a protocol that it speaks or of any, with a head that is nearly right or not.
    fn frame(&mut self) -> Vec<u8> {
        let length = 14 + self.below(1500);
        let mut frame = self.bytes(length.max(60));
        let to: [u8; 6] = if self.below(4) == 0 { [0xff; 6] } else { [0x52, 0x54, 0x00, 0xca, 0x5e, 0x01] };
        frame[..6].copy_from_slice(&to);
        frame[6] &= 0xfe;
        let kinds: [[u8; 2]; 5] = [[0x08, 0x00], [0x08, 0x06], [0x86, 0xdd], [0x81, 0x00], [0x88, 0xcc]];
        if let Some(kind) = kinds.get(self.below(6)) {
            frame[12..14].copy_from_slice(kind);
        }
        if frame[12..14] == [0x08, 0x00] && self.below(2) == 0 {
            frame[14] = 0x45;
            frame[23] = [1, 2, TCP, UDP, 47, 132][self.below(6)];
            frame[30..34].copy_from_slice(&GUEST);
        }
        frame
    }
}

/// What an internal-only machine may send to this wire: ARP for its own address and its gateway, DHCP, what its mesh answers
/// who asked it, and questions to the time server that its document names.
fn assert_contained(peer: &Peer) {
    let (guest, gateway) = (Ipv4Addr::from(GUEST), Ipv4Addr::from(GATEWAY));
    for frame in peer.frames() {
        let allowed = match frame.summary() {
            Summary::Arp { sender, target, request } => {
                sender == guest && (!request || [gateway, guest].contains(&target))
            }
            Summary::Ipv4 { source, destination, protocol, source_port, destination_port } => {
                let dhcp = (protocol, source_port, destination_port) == (UDP, 68, 67)
                    && [Ipv4Addr::UNSPECIFIED, guest].contains(&source);
                let time =
                    (source, destination, protocol, destination_port) == (guest, gateway, TCP, TIME_SERVER);
                dhcp || time || (source, protocol, source_port) == (guest, TCP, 443)
            }
            Summary::Other(_) => false,
        };
        assert!(allowed, "{frame:?}: {:?}", frame.bytes());
    }
}

/// The status port, connected to us instead of to `casemate-qemu`.
struct Port(UnixStream, StatusStream);

impl Port {
    fn connect(machine: &Machine, path: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let backend = format!(
            r#"{{"type":"socket","data":{{"server":false,"addr":{{"type":"unix","data":{{"path":"{}"}}}}}}}}"#,
            path.display()
        );
        machine.monitor(&format!(
            "{{\"execute\":\"chardev-change\",\"arguments\":{{\"id\":\"status\",\"backend\":{backend}}}}}\n"
        ));
        let (socket, _) = listener.accept().unwrap();
        socket.set_nonblocking(true).unwrap();
        Self(socket, StatusStream::default())
    }

    /// The first frame from now on that is wanted.
    fn wait(&mut self, what: &str, wanted: impl Fn(&Frame) -> bool) -> Frame {
        let begin = Instant::now();
        let mut bytes = [0; FRAME_LEN];
        while begin.elapsed() < PATIENCE {
            match self.0.read(&mut bytes) {
                Ok(0) => panic!("{what}: the port was closed"),
                Ok(length) => {
                    for item in self.1.push(&bytes[..length]) {
                        match item {
                            Item::Frame(frame) if wanted(&frame) => return frame,
                            Item::Frame(_) => {}
                            Item::Skipped(count) => panic!("{what}: {count} bytes that are no frame"),
                        }
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(50))
                }
                Err(error) => panic!("{what}: {error}"),
            }
        }
        panic!("{what}: not in time")
    }

    /// Writes as much as there is room for, and says how much.
    fn flood(&mut self, noise: &mut Noise) -> usize {
        let mut written = 0;
        while written < 1 << 20 {
            match self.0.write(&noise.bytes(4096)) {
                Ok(length) => written += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return written,
                Err(error) => panic!("{error}"),
            }
        }
        written
    }
}

fn alive(frame: &Frame) -> bool {
    frame.reason == Reason::Alive
}

#[test]
fn garbage_on_the_wire_and_on_the_status_port_changes_nothing() {
    if !qemu() {
        return;
    }
    let mut noise = Noise(0x00ca_5e3a_7e00_0001);
    let peer = Peer::listen(|asked| {
        let good = Answer::to(asked);
        let mut all = good.spoiled();
        all.push(good.bytes());
        all
    })
    .unwrap();
    let netdev = format!("socket:connect={}", peer.address()).parse().unwrap();
    let network = Some(Network::Socket(netdev));
    let machine = Machine::switch_on(&image(), Options { network, company: true, ..Options::default() });
    machine.wait("the links", || {
        machine.frames().iter().any(|frame| frame.stage >= Stage::Address).then_some(())
    });
    (0..GARBAGE).for_each(|_| peer.send(noise.frame()));
    machine.wait_ready();
    println!("fault garbage on the wire from its first second on: expected Ready, found Ready");

    (0..GARBAGE).for_each(|_| peer.send(noise.frame()));
    machine.monitor("{\"execute\":\"set_link\",\"arguments\":{\"name\":\"net0\",\"up\":false}}\n");
    machine.monitor("{\"execute\":\"set_link\",\"arguments\":{\"name\":\"net0\",\"up\":true}}\n");
    machine.wait("the garbage", || (peer.queued() == 0).then_some(()));
    let temp = tempfile::tempdir().unwrap();
    let mut first = Port::connect(&machine, &temp.path().join("first"));
    let before = first.wait("a frame after the garbage and a link that was down", alive);
    assert!(before.detail <= NOT_READY, "who can be ready is: {before:?}");
    println!("fault garbage on the wire, link down and up: expected Alive, found Alive");
    let written = first.flood(&mut noise);
    assert!(written > 0);
    let after =
        first.wait("a frame after garbage on the status port", |frame| alive(frame) && *frame != before);
    println!("fault {written} bytes into the status port: expected Alive, found Alive");
    drop(first);
    // Nobody is there for a while.
    std::thread::sleep(Duration::from_secs(1));
    let mut second = Port::connect(&machine, &temp.path().join("second"));
    let again = second.wait("a frame after the status port was closed and opened", alive);
    assert!(again.sequence > after.sequence && again.uptime_ms > after.uptime_ms, "{after:?} {again:?}");
    println!("fault the status port closed and opened: expected Alive, found Alive");
    machine.monitor(casemate_qemu::qmp::POWERDOWN);
    second.wait("the last frame", |frame| frame.reason == Reason::PoweredOff);
    drop(machine);
    assert_contained(&peer);
    println!(
        "fault all of these: expected nothing but ARP, DHCP, NTS and answers of the mesh on the wire, found so"
    );
}

/// The kernel's generator has nothing to start from: no instruction, and the device's driver comes later.
#[test]
fn without_entropy_nothing_is_measured_or_started() {
    if !qemu() {
        return;
    }
    const NONE: &str = "-cpu max,-rdrand,-rdseed -icount shift=3,sleep=off";
    let ended =
        Machine::switch_on(&image(), Options { extra: NONE, company: true, ..Options::default() }).wait_end();
    println!(
        "fault no RDRAND, no RDSEED: expected NoEntropy at \"entropy\", off, found {:?}",
        ended.last().reason
    );
    ended.assert_failed(Stage::Entropy, Reason::NoEntropy);
}

#[test]
fn neither_random_numbers_nor_the_time_of_the_host_are_needed_and_its_reset_is_the_end() {
    if !qemu() {
        return;
    }
    const HOST: &str = "-rtc base=2099-01-01T00:00:00 \
        -object rng-random,filename=/dev/zero,id=zeros -device virtio-rng-pci,rng=zeros";
    let machine = Machine::switch_on(&image(), Options { extra: HOST, company: true, ..Options::default() });
    machine.wait_ready();
    println!("fault zeros from the random number device: expected Ready, found Ready");
    let status = machine.wait_status("a status document", |_| true);
    let time = &status["time"];
    assert_eq!(time["source"], "host (unauthenticated)", "{time}");
    assert_eq!(time["floor"], u64::from(lock().epoch), "{time}");
    println!("fault a clock in 2099: expected the host's, unauthenticated, found {}", time["source"]);
    machine.monitor("{\"execute\":\"system_reset\"}\n");
    let ended = machine.wait_for_its_end();
    /// `casemate-qemu`'s exit status for a guest that its host has ended.
    const CUT: u8 = 9;
    println!("fault the reset button: expected exit status {CUT}, found {}", ended.exit_status);
    assert_eq!(ended.exit_status, CUT, "{ended}");
}

/// The network device is on a bus of which it can be taken, and is. The lock is bound to the link's name and not to the device:
/// it reads back, and the machine goes on without a network. At the end of its lease it has an address to give back, and no
/// link to take it from.
#[test]
fn a_network_device_that_goes_is_the_end_once_its_lease_is_over() {
    if !qemu() {
        return;
    }
    // Leases of an hour.
    let peer = Peer::listen(|asked| vec![Answer::to(asked).bytes()]).unwrap();
    let netdev = format!("socket:connect={}", peer.address()).parse().unwrap();
    let options = Options {
        network: Some(Network::Socket(netdev)),
        company: true,
        before: "-device pcie-root-port,id=rp,bus=pcie.0,addr=0x6,chassis=1,hotplug=on",
        rewrite: "s/^virtio-net-pci,\\(.*\\),bus=pcie.0,addr=0x3/virtio-net-pci,id=nic,\\1,bus=rp/",
        extra: FAST,
        ..Options::default()
    };
    let machine = Machine::switch_on(&image(), options);
    machine.wait_ready();
    machine.monitor("{\"execute\":\"device_del\",\"arguments\":{\"id\":\"nic\"}}\n");
    let gone = machine.all_frames().last().unwrap().uptime_ms;
    // The lock is read back each 30 s.
    let later = |frame: &Frame| alive(frame) && frame.uptime_ms > gone + 300_000;
    machine.wait("frames after the network device was taken away", || {
        machine.all_frames().iter().any(later).then_some(())
    });
    println!("fault the network device is taken away: expected Alive, found Alive");
    let over = |frames: &[Frame]| frames.last().is_some_and(|frame| frame.uptime_ms > gone + 4_000_000);
    let ended = machine.wait_end_unless(2 * PATIENCE, over);
    let last = ended.last();
    println!(
        "fault the network device is taken away: expected LinkFailed at the end of its lease, off, found {:?}, exit status {}",
        last.reason, ended.exit_status
    );
    assert_eq!((last.stage, last.reason), (Stage::Ready, Reason::LinkFailed), "{ended}");
    assert_eq!(ended.exit_status, Reason::LinkFailed.code(), "{ended}");
}
