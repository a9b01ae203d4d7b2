//! The time client against chrony's server, in network namespaces. `time_peer/fetch-chrony` finds it, or gets it unpacked.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed assertion is what a test is for")]

mod net_rig;
mod time_server;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use casemate_init::time::{Change, Client, Clock, Phase, Report};
use net_rig::Rig;
use time_server::{Ca, NAME, now, rig, server, why};

/// The program, or why there is none.
fn chronyd() -> Option<PathBuf> {
    static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = PROGRAM.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/time_peer/fetch-chrony");
        let output = Command::new(script).stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout).into()) } else { Err(text(&output.stderr)) }
    });
    match found {
        Ok(program) => Some(program.clone()),
        Err(why) => {
            net_rig::skip(&format!("chrony cannot be fetched: {}", why.replace('\n', "; ")));
            None
        }
    }
}

/// A server in the host's namespace; it ends with this value.
struct Chrony {
    child: Child,
}

impl Chrony {
    /// `folder` keeps its cookie keys, so that another run of it knows the cookies of this one.
    fn start(rig: &Rig, program: &Path, ca: &Ca, folder: &Path, name: &str) -> Self {
        let (certificate, key) = ca.leaf(name, now());
        let file = |name: &str| folder.join(name).display().to_string();
        fs::write(file("certificate"), certificate.pem()).unwrap();
        fs::write(file("key"), key.serialize_pem()).unwrap();
        let settings = [
            format!("ntsservercert {}", file("certificate")),
            format!("ntsserverkey {}", file("key")),
            format!("ntsdumpdir {}", folder.display()),
            format!("pidfile {}", file("pid")),
            format!("bindaddress {}", server(1)),
            "local stratum 1".into(),
            "allow all".into(),
            "cmdport 0".into(),
            "bindcmdaddress /".into(),
        ];
        fs::write(file("conf"), settings.join("\n") + "\n").unwrap();
        // -x: it sets no clock. -u root: it changes no owner of files of ours.
        let arguments = ["-d", "-x", "-u", "root", "-f"].map(str::to_owned);
        let log = fs::File::create(file("log")).unwrap();
        let child = rig.in_host(|| {
            Command::new(program)
                .args(arguments)
                .arg(file("conf"))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .unwrap()
        });
        let chrony = Self { child };
        let begin = Instant::now();
        while rig.in_guest(|| std::net::TcpStream::connect(time_server::exchange_of(1))).is_err() {
            let log = || fs::read_to_string(file("log")).unwrap_or_default();
            assert!(begin.elapsed() < Duration::from_secs(30), "chronyd does not listen: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
        chrony
    }
}

impl Drop for Chrony {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        // Asked, so that it writes its keys.
        let asked = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        assert!(asked.is_ok() || std::thread::panicking());
        let _status = self.child.wait();
    }
}

/// Between a report and our look at the clock.
const HAND: Duration = Duration::from_millis(50);

fn boottime() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).unwrap().into()
}

fn time_from(client: &mut Client) -> Report {
    let report = client.round().unwrap().unwrap_or_else(|| panic!("{}", why(client)));
    let off = report.sample.time_at(boottime()).abs_diff(now());
    assert!(off <= report.sample.error + HAND, "{off:?} off: {report:?}");
    report
}

#[test]
fn peer_chrony_gives_the_time() {
    let Some(program) = chronyd() else { return };
    let Some(rig) = rig(1) else { return };
    let (ca, folder) = (Ca::new(), tempfile::tempdir().unwrap());
    let _chrony = Chrony::start(&rig, &program, &ca, folder.path(), NAME);
    let mut client = ca.client(&rig, &[server(1)]);
    // More rounds than there are cookies from one key exchange.
    for _ in 0..20 {
        time_from(&mut client);
    }
    // A clock that only this test reads, of a host that says 2099.
    let report = time_from(&mut client);
    let uptime = boottime();
    let epoch = now() - Duration::from_secs(86_400);
    let mut clock = Clock::new(epoch);
    let change = clock.judge(&report.sample, Phase::Starting, Duration::from_secs(4_070_908_800), uptime);
    let Ok(Change::Step(to)) = change else { panic!("{change:?}") };
    assert!(to.abs_diff(now()) <= report.sample.error + HAND);
}

#[test]
fn peer_chrony_under_another_name_is_refused() {
    let Some(program) = chronyd() else { return };
    let Some(rig) = rig(1) else { return };
    let (ca, folder) = (Ca::new(), tempfile::tempdir().unwrap());
    let _chrony = Chrony::start(&rig, &program, &ca, folder.path(), "other.example");
    let mut client = ca.client(&rig, &[server(1)]);
    assert_eq!(client.round().unwrap(), None);
    assert!(why(&client).contains("not valid for name"), "{}", why(&client));
    time_from(&mut ca.client_for(&rig, &[server(1)], "other.example"));
}

#[test]
fn peer_chrony_goes_away_and_comes_back() {
    let Some(program) = chronyd() else { return };
    let Some(rig) = rig(1) else { return };
    let (ca, folder) = (Ca::new(), tempfile::tempdir().unwrap());
    let chrony = Chrony::start(&rig, &program, &ca, folder.path(), NAME);
    let mut client = ca.client(&rig, &[server(1)]);
    time_from(&mut client);
    drop(chrony);
    assert_eq!(client.round().unwrap(), None);
    // With its old keys it knows the cookies that are left.
    let chrony = Chrony::start(&rig, &program, &ca, folder.path(), NAME);
    time_from(&mut client);
    drop(chrony);
    // With new ones it says so (NTSN), and there is a new key exchange.
    let forgot = tempfile::tempdir().unwrap();
    let _chrony = Chrony::start(&rig, &program, &ca, forgot.path(), NAME);
    assert_eq!(client.round().unwrap(), None);
    assert!(why(&client).contains("NTSN"), "{}", why(&client));
    time_from(&mut client);
}
