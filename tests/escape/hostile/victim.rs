//! Other services, for the attacker to reach. They show that they can be reached from where they may be.

use std::io::Write as _;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener, UnixStream};

use crate::neighbours;
use crate::reach::{connect, send};
use crate::sys;

/// The victim's port, by TCP and UDP, and its abstract socket.
pub(crate) const VICTIM_PORT: u16 = 9000;
pub(crate) const VICTIM_SOCKET: &str = "casemate-escape-victim";
/// The victim is the document's second service: 198.18.2.2 (init/src/net/namespace.rs).
pub(crate) const VICTIM: [u8; 4] = [198, 18, 2, 2];

/// Has a root of its own.
pub(crate) fn be_a_victim() {
    let (Ok(tcp), Ok(udp), Ok(address)) = (
        TcpListener::bind(("0.0.0.0", VICTIM_PORT)),
        UdpSocket::bind(("0.0.0.0", VICTIM_PORT)),
        UnixAddress::from_abstract_name(VICTIM_SOCKET),
    ) else {
        return println!("victim: no listeners");
    };
    let Ok(_unix) = UnixListener::bind_addr(&address) else {
        return println!("victim: no abstract listener");
    };
    let (tcp, udp) = (tcp, std::sync::Arc::new(udp));
    let echo = std::sync::Arc::clone(&udp);
    // Before this program has a second thread: it forks.
    let (offered, held) = (neighbours::offer(), neighbours::hold(neighbours::LOCKED));
    std::thread::spawn(move || {
        let mut bytes = [0; 64];
        while let Ok((length, from)) = echo.recv_from(&mut bytes) {
            if &bytes[..length] != ITSELF {
                println!("the victim was reached from {from:?} by UDP");
            }
            drop(echo.send_to(b"got me", from));
        }
    });
    let by_tcp = connect((VICTIM, VICTIM_PORT)).is_ok() && UnixStream::connect_addr(&address).is_ok();
    let by_udp = send((VICTIM, VICTIM_PORT), ITSELF).is_ok();
    let word = |can: bool| if can { "can" } else { "cannot" };
    println!("the victim {} be reached", word(by_tcp && by_udp));
    println!("the victim's IPC {} be reached", word(offered));
    println!("the victim's lock and its steps {} be seen", word(held));
    drop(tcp.accept());
    for stream in tcp.incoming().flatten() {
        println!("the victim was reached from {:?}", stream.peer_addr());
        drop((&stream).write_all(b"got me"));
    }
}

/// What the victim sends to itself.
const ITSELF: &[u8] = b"itself";

/// Has the attacker's root.
pub(crate) fn be_a_neighbour() {
    let held = neighbours::hold(neighbours::SHARED);
    println!("the neighbour's lock and its steps {} be seen", if held { "can" } else { "cannot" });
    loop {
        sys::pause();
    }
}
