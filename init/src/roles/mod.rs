//! The guest's other processes: this same binary, executed again under another name.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::confine::{self, Profile};
use crate::supervise::HEARTBEAT_EVERY;
use crate::{handover, sys};

mod agent;
mod dhcp;
mod mesh;
mod service;
mod share;
mod time;
pub(crate) mod vpn;
mod workers;

pub use service::ServiceHandover;
pub use vpn::VpnHandover;

/// `argv[0]` of the guest agent.
pub const AGENT: &CStr = c"casemate-agent";
/// `argv[0]` of the mesh proxy.
pub const MESH: &CStr = c"casemate-mesh";
/// `argv[0]` of the VPN process.
pub const VPN: &CStr = c"casemate-vpn";
/// `argv[0]` of the DHCP client.
pub const DHCP: &CStr = c"casemate-dhcp";
/// `argv[0]` of the time client.
pub const TIME: &CStr = c"casemate-time";
/// `argv[0]` of the first process of a service's namespaces.
pub const SERVICE: &CStr = c"casemate-service";

/// `argv[0]` of the process that reads the host share.
pub const SHARE: &CStr = c"casemate-share";

/// What PID 1 tells the process that reads the host share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareHandover {
    /// The disks' names, in the order of their descriptors: for errors.
    pub devices: Vec<String>,
}

/// What PID 1 tells the DHCP client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DhcpHandover {
    /// The link's hardware address.
    pub mac: [u8; 6],
}

/// Runs a role; `None` if the name is none.
pub fn run(name: &[u8]) -> Option<ExitCode> {
    let role: fn() -> anyhow::Result<ExitCode> = match name {
        name if name == AGENT.to_bytes() => agent::run,
        name if name == MESH.to_bytes() => mesh::run,
        name if name == VPN.to_bytes() => vpn::run,
        name if name == DHCP.to_bytes() => dhcp::run,
        name if name == TIME.to_bytes() => time::run,
        name if name == SERVICE.to_bytes() => service::run,
        name if name == SHARE.to_bytes() => share::run,
        _ => return None,
    };
    let code = role().unwrap_or_else(|error| {
        // Standard error is PID 1's pipe.
        drop(writeln!(io::stderr(), "{error:#}"));
        ExitCode::FAILURE
    });
    Some(code)
}

/// The last step of a start: from here on only the profile's system calls, and PID 1 is told. A process that cannot be
/// confined, or cannot say so, ends.
fn ready(profile: Profile) {
    let done = confine::enter(profile)
        .map_err(anyhow::Error::from)
        .and_then(|()| Ok(report_ready_and_beat(report()?)?));
    if let Err(error) = done {
        tracing::error!(error = format!("{error:#}"), "not ready");
        #[expect(
            clippy::exit,
            reason = "the callers that call this have no way to fail; there is nothing to unwind"
        )]
        std::process::exit(1);
    }
}

/// The descriptor on which this process reports; to be taken once.
fn report() -> io::Result<File> {
    Ok(File::from(sys::inherited(handover::REPORT)?))
}

/// Tells PID 1 that this process is ready: one byte on the report descriptor. What only its start needed is given back.
fn report_ready(mut report: File) -> io::Result<File> {
    sys::give_back_pages()?;
    report.write_all(handover::READY)?;
    Ok(report)
}

/// Tells PID 1 that this process is ready, and from then on, out of the event loop that this is called in, that the loop
/// turns, on each of its threads. A thread of its own would go on saying so for a loop that is stuck.
fn report_ready_and_beat(report: File) -> io::Result<()> {
    tokio::spawn(beat(report_ready(report)?, HEARTBEAT_EVERY));
    Ok(())
}

async fn beat(mut report: File, every: Duration) {
    let mut workers = workers::Workers::of(tokio::runtime::Handle::current().metrics());
    let mut times = tokio::time::interval(every);
    // A loop that was stuck for a minute has not been well twelve times.
    times.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        times.tick().await;
        // No task of ours takes as long as the time between two beats. One that does holds back others, too; PID 1 waits
        // for several beats before it ends the process.
        if workers.any_stuck() {
            tracing::warn!("a thread is stuck in one task");
            continue;
        }
        match report.write_all(handover::HEARTBEAT) {
            Ok(()) => {}
            // PID 1 made the descriptor non-blocking, and has not read the earlier ones yet.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Plain lines on standard error: PID 1 adds the name, and there is no clock worth printing.
fn trace() {
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .with_max_level(tracing::Level::INFO)
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixDatagram;

    /// How many messages wait there.
    fn beats(socket: &UnixDatagram) -> usize {
        let mut byte = [0; 8];
        std::iter::from_fn(|| socket.recv(&mut byte).ok().map(|length| assert_eq!(&byte[..length], b"H")))
            .count()
    }

    #[tokio::test]
    async fn an_event_loop_that_is_stuck_does_not_beat() {
        let every = Duration::from_millis(20);
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let task = tokio::spawn(beat(OwnedFd::from(theirs).into(), every));
        while beats(&ours) == 0 {
            tokio::time::sleep(every).await;
        }
        std::thread::sleep(every * 20);
        assert!(beats(&ours) <= 1, "nothing was said while the loop stood still");
        while beats(&ours) == 0 {
            tokio::time::sleep(every).await;
        }
        drop(ours);
        task.await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 3)]
    async fn one_thread_of_several_that_is_stuck_is_noticed() {
        let every = Duration::from_millis(50);
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let task = tokio::spawn(beat(OwnedFd::from(theirs).into(), every));
        let heard = async || {
            while beats(&ours) == 0 {
                tokio::time::sleep(every).await;
            }
        };
        // With nothing to do, and with so much to do that a thread never rests.
        heard().await;
        let busy = tokio::spawn(async {
            loop {
                tokio::task::yield_now().await;
            }
        });
        heard().await;
        heard().await;
        busy.abort();
        let (go_on, wait) = std::sync::mpsc::channel::<()>();
        let stuck = tokio::spawn(async move { wait.recv() });
        // It takes a look after it is stuck, and another one.
        let begin = std::time::Instant::now();
        loop {
            tokio::time::sleep(every * 20).await;
            if beats(&ours) == 0 {
                break;
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "it beats for the others");
        }
        go_on.send(()).unwrap();
        stuck.await.unwrap().unwrap();
        heard().await;
        drop(ours);
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_reader_that_does_not_read_stops_nobody() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let task = tokio::spawn(beat(OwnedFd::from(theirs).into(), Duration::from_millis(1)));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!task.is_finished(), "it waits for room, and does not give up");
        drop(ours);
        task.await.unwrap();
    }
}
