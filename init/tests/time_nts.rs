//! The time client against servers of the tests' own, over real sockets in network namespaces.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::exit,
    reason = "a failed assertion is what a test is for"
)]

mod net_rig;
mod time_server;

use std::net::{TcpListener, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use casemate_init::confine::{self, Profile};
use casemate_init::time::{Change, Client, Clock, Phase, Report, Status, TimeError};
use time_server::{
    Ca, EXCHANGE, Fake, NAME, Reply, Script, exchange_of, now, record, rig, server, told, why,
};

const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(31_556_952);

/// Since the kernel started, as PID 1 knows it.
fn uptime() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).unwrap().into()
}

/// How far a report is from what this machine's clock says.
fn off(report: &Report) -> Duration {
    report.sample.time_at(uptime()).abs_diff(now())
}

/// From the wire to the clock: what PID 1 does with the report, on a clock that only this test reads.
#[test]
fn a_hosts_clock_is_set_right_in_either_direction_before_anything_runs() {
    let Some(rig) = rig(1) else { return };
    let ca = Ca::new();
    let _server = Fake::start(&rig, &ca, server(1), Script::default());
    let mut client = ca.client(&rig, &[server(1)]);
    let report = client.round().unwrap().unwrap_or_else(|| panic!("{}", why(&client)));
    let report = Report::decode(&report.encode(), 1).unwrap();
    assert_eq!((report.server, report.votes), (0, 1));
    let epoch = now() - 30 * DAY;
    for host in [epoch, now() - DAY, now() + DAY, now() + 73 * YEAR] {
        let mut clock = Clock::new(epoch);
        let mut status = Status::new(&clock);
        let (at, true_time) = (uptime(), now());
        let change = clock.judge(&report.sample, Phase::Starting, host, at).unwrap();
        let Change::Step(to) = change else { panic!("{host:?}: {change:?}") };
        assert!(to.abs_diff(true_time) <= report.sample.error + Duration::from_millis(50), "{to:?}");
        status.judged(&report, Some(exchange_of(1)), change, host, at);
        assert_eq!(
            (status.source, status.state, status.server),
            ("nts", "synchronised", Some(exchange_of(1)))
        );
        // The same host, found out when it is too late to set it back.
        let late = Clock::new(epoch).judge(&report.sample, Phase::Running, host, uptime()).unwrap();
        assert_eq!(late == Change::Skewed, host > now(), "{late:?}");
    }
}

#[test]
fn one_key_exchange_lasts_and_no_cookie_is_used_twice() {
    let Some(rig) = rig(1) else { return };
    let ca = Ca::new();
    // Every third answer is lost.
    let count = Mutex::new(0);
    let fake = Fake::start(
        &rig,
        &ca,
        server(1),
        Script::replies(move |reply| {
            let mut count = count.lock().unwrap();
            *count += 1;
            if *count % 3 == 0 { vec![] } else { vec![reply.bytes()] }
        }),
    );
    let mut client = ca.client(&rig, &[server(1)]);
    for round in 0..12 {
        let report = client.round().unwrap().unwrap_or_else(|| panic!("round {round}: {}", why(&client)));
        assert!(off(&report) <= report.sample.error + Duration::from_millis(50));
    }
    let (exchanges, requests, reused) = fake.seen.counts();
    assert_eq!((exchanges, reused), (1, 0));
    assert!(requests > 12, "{requests}");
}

#[test]
fn another_name_or_another_root_is_refused_before_a_byte_is_asked() {
    let Some(rig) = rig(2) else { return };
    let ca = Ca::new();
    let good = Fake::start(&rig, &ca, server(1), Script::default());
    let mut client = ca.client_for(&rig, &[server(1)], "other.example");
    assert_eq!(client.round().unwrap(), None);
    assert!(why(&client).contains("not valid for name"), "{}", why(&client));
    let mut client = Ca::new().client(&rig, &[server(1)]);
    assert_eq!(client.round().unwrap(), None);
    // Of the same name, with another key.
    assert!(why(&client).contains("BadSignature"), "{}", why(&client));
    let expired = Script { certified: now() - 100 * DAY, ..Script::default() };
    let expired = Fake::start(&rig, &ca, server(2), expired);
    let mut client = ca.client(&rig, &[server(2)]);
    assert_eq!(client.round().unwrap(), None);
    assert!(why(&client).contains("expired"), "{}", why(&client));
    assert_eq!((good.seen.counts().1, expired.seen.counts().1), (0, 0));
    // The control.
    assert!(ca.client(&rig, &[server(1)]).round().unwrap().is_some());
}

/// A certificate of the future is good in the handshake, for who knows what time it is; not when the server has said it.
#[test]
fn a_server_must_say_a_time_at_which_its_certificate_is_valid() {
    let Some(rig) = rig(1) else { return };
    let ca = Ca::new();
    let ahead = i64::try_from((400 * DAY).as_secs()).unwrap();
    for (moved, good) in [(0, false), (ahead, true)] {
        let script = Script {
            certified: now() + 400 * DAY,
            ..Script::replies(move |reply| vec![reply.moved(moved).bytes()])
        };
        let fake = Fake::start(&rig, &ca, server(1), script);
        let mut client = ca.client(&rig, &[server(1)]);
        assert_eq!(client.round().unwrap().is_some(), good, "{}", why(&client));
        assert!(good || why(&client).contains("not valid yet"), "{}", why(&client));
        assert_eq!(fake.seen.counts().1, 1);
    }
}

#[test]
fn a_server_that_names_another_host_is_refused_and_the_other_is_not_asked() {
    let Some(rig) = rig(3) else { return };
    let ca = Ca::new();
    let other = Fake::start(&rig, &ca, server(2), Script::default());
    for (records, expected) in [
        (record(true, 6, b"10.9.0.2"), "another host, \"10.9.0.2\""),
        (record(false, 6, b"10.9.0.2"), "another host, \"10.9.0.2\""),
        (record(true, 6, b"other.example"), "another host, \"other.example\""),
        (record(true, 7, &[0, 124]), "port 123"),
        (record(true, 2, &[0, 2]), "error [00, 02]"),
    ] {
        let script = Script::records(move || vec![records.clone()]);
        let fake = Fake::start(&rig, &ca, server(1), script);
        let mut client = ca.client(&rig, &[server(1)]);
        assert_eq!(client.round().unwrap(), None);
        assert!(why(&client).contains(expected), "{}", why(&client));
        assert_eq!(fake.seen.counts(), (1, 0, 0));
    }
    assert_eq!(other.seen.counts(), (0, 0, 0));
    let names_itself = Script::records(|| {
        vec![record(true, 6, b"10.9.0.3"), record(true, 7, &[0, 123]), record(false, 6, NAME.as_bytes())]
    });
    let _fake = Fake::start(&rig, &ca, server(3), names_itself);
    assert!(ca.client(&rig, &[server(3)]).round().unwrap().is_some(), "the control");
}

#[test]
fn what_is_no_key_exchange_is_refused() {
    let Some(rig) = rig(3) else { return };
    let ca = Ca::new();
    let tls12 = Script { version: &rustls::version::TLS12, ..Script::default() };
    let _tls12 = Fake::start(&rig, &ca, server(1), tls12);
    let _http = Fake::start(&rig, &ca, server(2), Script { alpn: b"http/1.1", ..Script::default() });
    // It takes connections, and says nothing.
    let _silent = rig.in_host(|| TcpListener::bind((server(3), EXCHANGE))).unwrap();
    let begin = Instant::now();
    for (number, expected) in [(1, "TLS"), (2, "TLS"), (3, "exchange keys")] {
        let mut client = ca.client(&rig, &[server(number)]);
        assert_eq!(client.round().unwrap(), None);
        assert!(why(&client).contains(expected), "{number}: {}", why(&client));
    }
    assert!(begin.elapsed() < Duration::from_secs(40), "{:?}", begin.elapsed());
}

/// A byte now and then is no reason to wait longer.
#[test]
fn a_server_that_drips_is_left() {
    let Some(rig) = rig(1) else { return };
    let ca = Ca::new();
    let drip = Script { drip: Duration::from_millis(300), ..Script::default() };
    let _drips = Fake::start(&rig, &ca, server(1), drip);
    let mut client = ca.client(&rig, &[server(1)]);
    let begin = Instant::now();
    assert_eq!(client.round().unwrap(), None);
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    assert!(why(&client).contains("exchange keys"), "{}", why(&client));
}

#[test]
fn hostile_answers_are_passed_over_until_the_true_one_comes() {
    let Some(rig) = rig(1) else { return };
    let ca = Ca::new();
    let last = Mutex::new(None::<Reply>);
    let hostile = Script::replies(move |good| {
        let mut all = vec![vec![], vec![0; 48], vec![0xff; 2048], vec![0x24; 2049], vec![0; 20_000]];
        // A replay of the answer before.
        all.extend(last.lock().unwrap().replace(good.clone()).map(|replay| replay.bytes()));
        all.push(Reply { unique_id: vec![0; 32], ..good.clone() }.bytes());
        all.push(Reply { authenticated: false, ..good.clone() }.moved(1000).bytes());
        all.push(Reply { key: [0; 32], ..good.clone() }.moved(1000).bytes());
        all.push(good.clone().kiss(b"DENY", false).bytes());
        let mut bent = good.bytes();
        bent[43] ^= 1;
        all.push(bent);
        all.push(good.bytes());
        all
    });
    let fake = Fake::start(&rig, &ca, server(1), hostile);
    let mut client = ca.client(&rig, &[server(1)]);
    for round in 1..4 {
        let report = client.round().unwrap().unwrap_or_else(|| panic!("{}", why(&client)));
        assert!(off(&report) <= report.sample.error + Duration::from_millis(50));
        assert_eq!(fake.seen.counts(), (1, round, 0), "nothing had to be asked twice");
    }
}

#[test]
fn times_that_cannot_be_are_refused() {
    let Some(rig) = rig(1) else { return };
    let ca = Ca::new();
    let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap();
    for (moved, expected) in [
        (-seconds(31 * DAY), "expected at least"),
        (-seconds(20 * YEAR), "expected at least"),
        (seconds(10 * YEAR), "expected at most"),
        (seconds(60 * YEAR), "expected at most"),
        (seconds(2 * DAY), "TLS"),
    ] {
        let fake =
            Fake::start(&rig, &ca, server(1), Script::replies(move |good| vec![good.moved(moved).bytes()]));
        let mut client = ca.client(&rig, &[server(1)]);
        assert_eq!(client.round().unwrap(), None, "{moved}");
        assert!(why(&client).contains(expected), "{moved}: {}", why(&client));
        assert!(fake.seen.counts().1 >= 1);
    }
    // A server that does not know the time itself.
    let vague = Script::replies(|mut good| {
        good.header[8..12].copy_from_slice(&(2_u32 << 16).to_be_bytes());
        vec![good.bytes()]
    });
    let _fake = Fake::start(&rig, &ca, server(1), vague);
    let mut client = ca.client(&rig, &[server(1)]);
    assert_eq!(client.round().unwrap(), None);
    assert!(matches!(client.failures().next().unwrap().1, TimeError::TooVague(_)), "{}", why(&client));
}

#[test]
fn an_authentic_kiss_is_obeyed_and_another_is_not() {
    let Some(rig) = rig(2) else { return };
    let ca = Ca::new();
    for code in [b"RATE", b"DENY", b"RSTR"] {
        let fake =
            Fake::start(&rig, &ca, server(1), Script::replies(|good| vec![good.kiss(code, true).bytes()]));
        let mut client = ca.client(&rig, &[server(1)]);
        assert_eq!(client.round().unwrap(), None);
        assert!(matches!(client.failures().next().unwrap().1, TimeError::Kiss { authentic: true, .. }));
        assert_eq!(client.round().unwrap(), None);
        assert!(why(&client).contains("asked to be left alone"), "{}", why(&client));
        assert_eq!(fake.seen.counts(), (1, 1, 0));
    }
    // Anybody may have sent this: it is asked again, thrice a round; and with new keys, in case it was the server.
    let fake =
        Fake::start(&rig, &ca, server(2), Script::replies(|good| vec![good.kiss(b"DENY", false).bytes()]));
    let mut client = ca.client(&rig, &[server(2)]);
    for round in 1..3 {
        assert_eq!(client.round().unwrap(), None);
        assert!(matches!(client.failures().next().unwrap().1, TimeError::Kiss { authentic: false, .. }));
        assert_eq!(fake.seen.counts(), (round, 3 * round, 0));
    }
}

#[test]
fn a_server_that_goes_away_is_found_again() {
    let Some(rig) = rig(1) else { return };
    let ca = Ca::new();
    let mut client = ca.client(&rig, &[server(1)]);
    assert_eq!(client.round().unwrap(), None, "not there yet");
    assert!(why(&client).contains("connect by TCP"), "{}", why(&client));
    let fake = Fake::start(&rig, &ca, server(1), Script::default());
    assert!(client.round().unwrap().is_some());
    drop(fake);
    assert_eq!(client.round().unwrap(), None);
    assert!(why(&client).contains("receive an answer"), "{}", why(&client));
    // It is back with new keys, and does not know the old ones: NTSN, and then a new key exchange.
    let fake = Fake::start(&rig, &ca, server(1), Script::default());
    assert_eq!(client.round().unwrap(), None);
    assert!(why(&client).contains("NTSN"), "{}", why(&client));
    assert!(client.round().unwrap().is_some(), "{}", why(&client));
    assert_eq!(fake.seen.counts().0, 1);
}

#[test]
fn more_than_half_of_the_named_servers_decide() {
    let Some(rig) = rig(3) else { return };
    let ca = Ca::new();
    let all = [server(1), server(2), server(3)];
    let one = Fake::start(&rig, &ca, server(1), Script::default());
    let mut client = ca.client(&rig, &all);
    assert_eq!(client.round().unwrap(), None, "one of three is not enough");
    assert_eq!(client.failures().count(), 2);
    let _liar = Fake::start(&rig, &ca, server(2), Script::replies(|good| vec![good.moved(3600).bytes()]));
    assert_eq!(client.round().unwrap(), None, "two that do not agree");
    assert_eq!(client.failures().count(), 1);
    let _three = Fake::start(&rig, &ca, server(3), Script::default());
    let report = client.round().unwrap().unwrap_or_else(|| panic!("{}", why(&client)));
    assert_eq!(report.votes, 2);
    assert!(report.server != 1, "{report:?}");
    assert!(off(&report) <= report.sample.error + Duration::from_millis(50), "{report:?}");
    drop(one);
    assert_eq!(client.round().unwrap(), None, "the liar is no majority with nobody");
}

/// The client's own sockets pass the lock; anybody else's do not.
#[test]
fn it_works_behind_the_egress_lock() {
    use casemate_egress::{Lock, Mode, Policy, Uids, ruleset};
    let Some(rig) = rig(2) else { return };
    let ca = Ca::new();
    let policy = Policy {
        mode: Mode::InternalOnly,
        link: net_rig::LINK.parse().unwrap(),
        services: vec![],
        inbound: vec![],
        mesh_targets: vec![],
        time_servers: vec![exchange_of(1)],
        backends: vec![],
        tunnel: None,
        uids: Uids { agent: 101, vpn: 102, mesh: 103, vpc: 104, dhcp: 105, time: 107 },
        dhcp_mark: None,
    };
    let mut lock = rig.in_guest(|| Lock::install(&ruleset(&policy))).unwrap();
    let fakes = [1, 2].map(|number| Fake::start(&rig, &ca, server(number), Script::default()));
    let mut client = ca.client(&rig, &[server(1)]);
    for _ in 0..3 {
        assert!(client.round().unwrap().is_some(), "{}", why(&client));
    }
    let mut count = |name: &str| {
        let counters = lock.counters().unwrap();
        counters.into_iter().find(|counter| counter.name == name).unwrap().packets
    };
    assert_eq!(count("process:time"), 0);
    let mut client = ca.client(&rig, &[server(2)]);
    assert_eq!(client.round().unwrap(), None);
    assert!(count("process:time") >= 1);
    rig.in_guest(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let _refused = socket.send_to(b"time", (server(1), 123));
    });
    assert!(count("process:init") >= 1);
    assert_eq!((fakes[0].seen.counts(), fakes[1].seen.counts()), ((1, 3, 0), (0, 0, 0)));
}

/// What the child is told: the root, in hex.
const ROOT: &str = "TIME_ROOT";

/// Not a test of its own: the client as the process it is, behind its filter of system calls.
#[test]
fn child() {
    let Ok(root) = std::env::var(ROOT) else { return };
    let mut roots = rustls::RootCertStore::empty();
    roots.add(hex::decode(root).unwrap().into()).unwrap();
    let mut client = Client::new(&told(&[server(1), server(2), server(3)], NAME), roots).unwrap();
    confine::enter(Profile::Time).unwrap();
    for _ in 0..4 {
        let report = client.round().unwrap().unwrap_or_else(|| panic!("{}", why(&client)));
        assert_eq!(report.votes, 2);
        assert!(why(&client).contains("connect by TCP"), "{}", why(&client));
    }
    println!("four rounds");
    std::process::exit(0);
}

/// A call that its list lacks would end it (SIGSYS); with threads, TLS, timeouts and a server that is not there.
#[test]
fn it_works_confined() {
    let Some(rig) = rig(3) else { return };
    let ca = Ca::new();
    let lossy = Mutex::new(0);
    let lossy = Script::replies(move |good| {
        let mut count = lossy.lock().unwrap();
        *count += 1;
        if *count % 2 == 1 { vec![vec![0; 48]] } else { vec![good.bytes()] }
    });
    let fakes =
        [Fake::start(&rig, &ca, server(1), Script::default()), Fake::start(&rig, &ca, server(2), lossy)];
    let output = rig.in_guest(|| {
        Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--nocapture"])
            .env(ROOT, hex::encode(&ca.root))
            .stdin(Stdio::null())
            .output()
            .unwrap()
    });
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("four rounds"),
        "{:?}: {said}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(fakes.map(|fake| fake.seen.counts()), [(1, 4, 0), (1, 8, 0)]);
}
