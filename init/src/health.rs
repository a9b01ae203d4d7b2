//! Whether a service listens where its document says: the kernel's own list of the sockets in its network namespace.

use std::collections::BTreeSet;
use std::io::{self, BufRead as _, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// How much of one list is read. Listeners come first in it (`tcp_get_idx`, net/ipv4/tcp_ipv4.c), in lines of 150 bytes.
const MOST: u64 = 256 << 10;
/// `TCP_LISTEN` (include/net/tcp_states.h), as the list prints it.
const LISTENING: &str = "0A";

/// In a few words, for the status document: `listening`, or on which of its ports nobody listens.
pub fn words(proc: &Path, pid: i32, own: Ipv4Addr, ports: &[u16]) -> String {
    let both = ["tcp", "tcp6"].map(|list| {
        let file = std::fs::File::open(proc.join(pid.to_string()).join("net").join(list));
        file.and_then(|file| reachable(file, own))
    });
    let [Ok(mut open), Ok(six)] = both else { return "unknown".into() };
    open.extend(six);
    let closed: Vec<String> = ports.iter().filter(|port| !open.contains(port)).map(u16::to_string).collect();
    if closed.is_empty() { "listening".into() } else { format!("not listening on {}", closed.join(", ")) }
}

/// The TCP ports of one list on which somebody listens at `own` or at every address.
fn reachable(list: impl Read, own: Ipv4Addr) -> io::Result<BTreeSet<u16>> {
    let mut lines = BufReader::with_capacity(4096, list.take(MOST)).lines();
    let heading = lines.next().transpose()?.unwrap_or_default();
    if !heading.trim_start().starts_with("sl ") {
        return Err(unexpected(&heading));
    }
    let mut ports = BTreeSet::new();
    let mut read = 0_u64;
    for line in lines {
        let line = line?;
        read = read.saturating_add(line.len() as u64).saturating_add(1);
        let Some((address, port, state)) = parse(&line) else {
            // The last line of a list that was too long is cut.
            return Err(unexpected(&line));
        };
        if state != LISTENING {
            return Ok(ports);
        }
        let mapped = match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(address) => address.to_ipv4_mapped(),
        };
        if address.is_unspecified() || mapped.is_some_and(|four| four == own || four.is_unspecified()) {
            ports.insert(port);
        }
    }
    // What was cut at the end of a line is not whole, either.
    if read.saturating_add(256) > MOST { Err(unexpected("too long a list")) } else { Ok(ports) }
}

fn unexpected(found: &str) -> io::Error {
    io::Error::other(format!("a list of sockets: found {found:?}"))
}

/// `  12: 0100007F:1F40 00000000:0000 0A …` (`get_tcp4_sock`, net/ipv4/tcp_ipv4.c; `get_tcp6_sock`, net/ipv6/tcp_ipv6.c).
fn parse(line: &str) -> Option<(IpAddr, u16, &str)> {
    let mut words = line.split_ascii_whitespace();
    let number = words.next()?.strip_suffix(':')?;
    number.parse::<u64>().ok()?;
    let (address, port) = endpoint(words.next()?)?;
    endpoint(words.next()?)?;
    let state = words.next().filter(|state| state.len() == 2)?;
    Some((address, port, state))
}

fn endpoint(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let port = (port.len() == 4).then(|| u16::from_str_radix(port, 16).ok())??;
    // Each word is printed as a number of this machine, whose bytes in memory are those on the wire.
    let word = |digits: &str| u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes);
    match address.len() {
        8 => Some((Ipv4Addr::from(word(address)?).into(), port)),
        32 => {
            let mut bytes = [0; 16];
            for (index, quarter) in bytes.chunks_exact_mut(4).enumerate() {
                let from = index.checked_mul(8)?;
                quarter.copy_from_slice(&word(address.get(from..from.checked_add(8)?)?)?);
            }
            Some((Ipv6Addr::from(bytes).into(), port))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    const OWN: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 2);
    const HEADING: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid";

    fn of(lines: &[&str]) -> io::Result<Vec<u16>> {
        let text = [&[HEADING], lines].concat().join("\n") + "\n";
        Ok(reachable(text.as_bytes(), OWN)?.into_iter().collect())
    }

    #[test]
    fn only_listeners_that_mesh_can_reach_count() {
        let rest = "00000000:00000000 00:00000000 00000000  1000        0 1 1 0 100 0 0 10 0";
        let lines = [
            format!("   0: 00000000:1F40 00000000:0000 0A {rest}"),
            format!("   1: 020112C6:1F41 00000000:0000 0A {rest}"),
            format!("   2: 0100007F:1F42 00000000:0000 0A {rest}"),
            format!(
                "   3: 00000000000000000000000000000000:1F43 00000000000000000000000000000000:0000 0A {rest}"
            ),
            format!(
                "   4: 0000000000000000FFFF0000020112C6:1F44 00000000000000000000000000000000:0000 0A {rest}"
            ),
            format!(
                "   5: 00000000000000000000000001000000:1F45 00000000000000000000000000000000:0000 0A {rest}"
            ),
            format!("   6: 020112C6:1F46 010112C6:9000 01 {rest}"),
        ];
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        assert_eq!(of(&lines).unwrap(), [8000, 8001, 8003, 8004]);
        assert!(of(&[]).unwrap().is_empty());
    }

    #[test]
    fn what_is_not_such_a_list_is_no_answer() {
        for bad in [
            "junk",
            "   0: 00000000:1F40 00000000:0000",
            "   0: 0000000:1F40 00000000:0000 0A",
            "   0: 00000000:1F4 00000000:0000 0A",
            "   0: 00000000:1F40 00000000:0000 0AA",
            "   x: 00000000:1F40 00000000:0000 0A",
            "",
        ] {
            assert!(of(&[bad]).is_err(), "{bad:?}");
        }
        assert!(reachable(&b""[..], OWN).is_err());
        let line = "   0: 00000000:1F40 00000000:0000 0A\n".repeat(10_000);
        assert!(reachable(format!("{HEADING}\n{line}").as_bytes(), OWN).is_err(), "a list that is cut");
    }

    #[test]
    fn the_kernel_of_this_machine_writes_such_lists() {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let pid = i32::try_from(std::process::id()).unwrap();
        assert_eq!(words(Path::new("/proc"), pid, OWN, &[port]), "listening");
        drop(listener);
        let loopback = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        let closed = format!("not listening on {port}");
        assert_eq!(words(Path::new("/proc"), pid, OWN, &[port]), closed, "mesh cannot reach {loopback:?}");
        assert_eq!(words(Path::new("/nowhere"), pid, OWN, &[port]), "unknown");
    }
}
