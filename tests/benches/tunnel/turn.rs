//! One stream through one tunnel, and what it took.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use crate::MTU;
use crate::figures::Spread;
use crate::net::{Host, Succeed as _};
use crate::processes::{Processes, Rss, datagrams_lost, load};
use crate::tunnel::{Tunnel, link};
use crate::wait::{s, until};

/// What was measured.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    pub(crate) name: &'static str,
    /// Gigabits a second, as the receiver has them.
    pub(crate) gbps: f64,
    /// CPU seconds of both sides for each gigabit sent; of a tunnel.
    pub(crate) cpu: Option<f64>,
    /// MB resident of the larger side, now and at most so far; of a tunnel.
    pub(crate) rss: Option<Rss>,
    pub(crate) retransmits: u64,
    /// Milliseconds there and back, with nothing else on the way and beside the stream.
    pub(crate) idle: Spread,
    pub(crate) loaded: Spread,
    /// Its own counters; of who has them.
    pub(crate) drops: Option<BTreeMap<String, u64>>,
    /// Packets that the kernel dropped at the tunnel's interfaces or sockets.
    kernel: u64,
    /// Where both sides send to in the end, and whether that is elsewhere than before.
    path: Option<[SocketAddr; 2]>,
    moved: bool,
    load: String,
}

/// The second that iperf3 does not count.
const OMITTED: u64 = 1;

pub(crate) fn take(tunnel: &dyn Tunnel, seconds: u64) -> Turn {
    tunnel.ready();
    let (hosts, address) = (tunnel.hosts(), tunnel.address());
    let interfaces = tunnel.interfaces();
    for (host, interface) in hosts.iter().zip(&interfaces) {
        let (mtu, _) = link(host, interface);
        assert_eq!(mtu, u64::from(MTU), "MTU of {interface} of {}", host.name);
    }
    let kernel = || -> u64 {
        let one = |(host, interface): (&&Host, &String)| link(host, interface).1 + datagrams_lost(host);
        hosts.iter().zip(&interfaces).map(one).sum()
    };
    let idle = ping(hosts[0], &address, 10, 0.1);
    let paths = tunnel.paths();
    // Before there is a server, all that is in the namespaces is the tunnel's.
    let sides = hosts.map(Processes::of);
    let dropped = tunnel.drops();
    let kernel_before = kernel();
    let cpu = || sides.iter().map(Processes::cpu).sum::<f64>();

    let before = cpu();
    let (report, loaded) = stream(hosts, &address, seconds);
    let spent = cpu() - before;

    let after = tunnel.drops();
    let kernel = kernel() - kernel_before;
    let sizes: Vec<_> = sides.iter().map(Processes::rss).collect();
    let rss = sizes.into_iter().max_by(|a, b| a.now().total_cmp(&b.now())).filter(|rss| rss.now() > 0.0);
    let paths = [paths, tunnel.paths()];
    assert_eq!(hosts.map(Processes::of), sides, "{}: other processes than before", tunnel.name());
    Turn {
        name: tunnel.name(),
        gbps: report["end"]["sum_received"]["bits_per_second"].as_f64().unwrap() / 1e9,
        cpu: rss.as_ref().map(|_| spent / gigabits(&report)),
        rss,
        retransmits: report["end"]["sum_sent"]["retransmits"].as_u64().unwrap(),
        idle,
        loaded,
        drops: after.map(|after| grown(&dropped.unwrap_or_default(), after)),
        kernel,
        moved: paths[0] != paths[1],
        path: paths[1],
        load: load().split_whitespace().next().unwrap().to_owned(),
    }
}

/// A stream, with pings beside it.
fn stream([from, to]: [&Host; 2], address: &str, seconds: u64) -> (Value, Spread) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!("iperf3-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let mut server = to.start(&name, Path::new("iperf3"), |iperf| {
        iperf.args(["--server", "--one-off", "--forceflush", "--bind", address]);
    });
    until(s(10), "a server of iperf3", || server.said().contains("Server listening").then_some(()));
    let mut client = from.command(s(seconds + 20), "iperf3");
    client.args(["--client", address, "--json", "--connect-timeout", "5000"]);
    client.args(["--time", &seconds.to_string(), "--omit", &OMITTED.to_string()]);
    let client = client.stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(s(OMITTED));
    // Pings end before the stream does.
    let count = (seconds * 10).saturating_sub(8).max(5);
    let loaded = ping(from, address, count, 0.1);
    let output = client.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "iperf3 to {address}: {}", report["error"]);
    server.end(s(10));
    (report, loaded)
}

/// All that was sent: what was not to be counted has cost CPU time too.
fn gigabits(report: &Value) -> f64 {
    let intervals = report["intervals"].as_array().unwrap();
    intervals.iter().map(|one| one["sum"]["bytes"].as_f64().unwrap()).sum::<f64>() * 8.0 / 1e9
}

/// Milliseconds of pings at regular times.
fn ping(from: &Host, address: &str, count: u64, interval: f64) -> Spread {
    let mut ping = from.command(s(20 + count / 5), "ping");
    ping.args(["-n", "-W", "2", "-c", &count.to_string(), "-i", &interval.to_string(), address]);
    let said = ping.succeed();
    let times = said.lines().filter_map(|line| line.split_once("time=")?.1.split(' ').next()?.parse().ok());
    Spread::of(times)
}

fn grown(before: &BTreeMap<String, u64>, after: BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let by = |(reason, count): (String, u64)| {
        let more = count - before.get(&reason).copied().unwrap_or_default();
        (more > 0).then_some((reason, more))
    };
    after.into_iter().filter_map(by).collect()
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "name={} gbps={:.2}", self.name, self.gbps)?;
        if let Some(cpu) = self.cpu {
            write!(f, " cpu_s_per_gbit={cpu:.3}")?;
        }
        if let Some(rss) = &self.rss {
            write!(f, " {rss}")?;
        }
        write!(
            f,
            " retransmits={} ping_ms={:.2} ping_loaded_ms={:.2}",
            self.retransmits, self.idle, self.loaded
        )?;
        if let Some(drops) = &self.drops {
            write!(f, " drops={}", drops.values().sum::<u64>())?;
            for (reason, count) in drops {
                write!(f, " {reason}={count}")?;
            }
        }
        if let Some([to, back]) = self.path {
            write!(f, " path={to} back={back}{}", if self.moved { " MOVED" } else { "" })?;
        }
        write!(f, " kernel_drops={} load={}", self.kernel, self.load)
    }
}
