//! The supervisor itself, on this machine's kernel: as root, in a cgroup of its own.
//!
//! It waits for every child of its process, so each test runs in a process of its own.

use std::ffi::CStr;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::super::cgroup::Limits;
use super::*;
use crate::supervise::{PACE, Pace};
use casemate_measure::section::Restart;

/// Set in the process that runs one test.
const INSIDE: &str = "CASEMATE_TEST_SUPERVISOR";
/// At once, so that thousands of restarts take seconds.
const AT_ONCE: Pace = Pace { first: Duration::ZERO, longest: Duration::ZERO };
/// For whatever a test waits for.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs the test of this name in a process of its own, or, there, says that this is it and where its cgroups go.
fn alone(name: &str) -> Option<Place> {
    if std::env::var_os(INSIDE).is_some() {
        return Place::new();
    }
    if !nix::unistd::geteuid().is_root() || Place::new().is_none() {
        println!("SKIPPED: {name}: needs root and a cgroup v2 hierarchy that can be written to");
        return None;
    }
    let name = format!("{}::{name}", module_path!().split_once("::").unwrap().1);
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output =
        command.args(["--exact", &name, "--nocapture"]).env(INSIDE, "1").env_remove("CI").output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    said.lines().filter(|line| line.starts_with("supervisor: ")).for_each(|line| println!("{line}"));
    None
}

/// A cgroup for the cgroups of one test.
struct Place(PathBuf);

impl Place {
    fn new() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mut all = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let root = all.find_map(|words| (words.get(2) == Some(&"cgroup2")).then(|| words[1].to_owned()))?;
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(root).join(format!("casemate-test-{}-{number}", std::process::id()));
        fs::create_dir(&path).ok().map(|()| Self(path))
    }

    fn leaf(&self) -> Leaf {
        Leaf::create(&self.0, "leaf", Limits::default()).unwrap()
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.0.join("leaf").join(file), text).unwrap();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Also what a failed test left running.
        let leaf = self.0.join("leaf");
        if leaf.exists() {
            drop(fs::write(leaf.join("cgroup.kill"), "1"));
            let begin = Instant::now();
            while fs::remove_dir(&leaf).is_err() && begin.elapsed() < Duration::from_secs(5) {
                std::thread::yield_now();
            }
        }
        drop(fs::remove_dir(&self.0));
    }
}

fn recipe(place: &Place, role: &'static CStr, restarts: Restarts, health: Health) -> Recipe {
    Recipe {
        name: "it".into(),
        role,
        handover: b"{}".to_vec(),
        extra: Vec::new(),
        uid: None,
        namespaces: Namespaces::Shared,
        leaf: place.leaf(),
        restarts,
        health,
    }
}

/// One turn of PID 1's loop: wait for something, at most a little, and take it in.
fn turn(processes: &mut Processes) -> Vec<Happening> {
    let mut happenings = Vec::new();
    let mut watched: Vec<_> =
        processes.watched().map(|fd| nix::poll::PollFd::new(fd, nix::poll::PollFlags::POLLIN)).collect();
    nix::poll::poll(&mut watched, 1_u8).unwrap();
    processes.after_poll(&mut happenings);
    processes.restart_due();
    happenings
}

/// Turns until something is so.
fn until(processes: &mut Processes, what: &str, done: impl Fn(&Processes) -> bool) -> Vec<Happening> {
    let begin = Instant::now();
    let mut all = Vec::new();
    while !done(processes) {
        assert!(begin.elapsed() < PATIENCE, "{what}: {processes:?}");
        all.extend(turn(processes));
    }
    all
}

fn program(path: &str) -> Processes {
    Processes::of(File::open(path).unwrap()).unwrap()
}

fn running(processes: &Processes) -> bool {
    processes.any_running(|_| true)
}

/// Memory of this process in kB: summed up page by page, because the counters of /proc/self/status are off by up to 32 pages
/// a processor (mm/`percpu_counter`, kernel 6.2 on).
fn resident() -> u64 {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn memory_and_descriptors_are_the_same_after_ten_thousand_restarts() {
    let Some(place) = alone("memory_and_descriptors_are_the_same_after_ten_thousand_restarts") else {
        return;
    };
    let mut processes = program("/bin/true");
    processes.start(recipe(&place, c"true", Restarts::for_ever(AT_ONCE), Health::Unknown)).unwrap();
    let at = |processes: &mut Processes, restarts: u64| {
        let begin = Instant::now();
        // Nothing is kept of what happens: PID 1 keeps nothing, either.
        while processes.list[0].recipe.restarts.total() < restarts {
            assert!(begin.elapsed() < PATIENCE, "{processes:?}");
            turn(processes);
        }
        (resident(), descriptors())
    };
    // The allocator's own pools fill in the first hundreds, and with what is read to measure them.
    at(&mut processes, 1000);
    let (early_memory, early_descriptors) = at(&mut processes, 2000);
    let (memory, open) = at(&mut processes, 12_000);
    println!(
        "supervisor: 10,000 restarts: RSS {early_memory} kB before, {memory} kB after; {open} descriptors"
    );
    assert_eq!(open, early_descriptors);
    assert!(memory <= early_memory + 64, "{early_memory} kB, then {memory} kB");
}

/// A shell that reads this from its standard input, in its first run; every later run finds nothing there, and ends.
fn shell(script: &str) -> Processes {
    let script = sys::memfd("script", script.as_bytes()).unwrap();
    Processes { null: script.into(), ..program("/bin/sh") }
}

/// What a process says that is ready, and then has nothing more to say.
const READY_AND_QUIET: &str = "printf R >&4; exec sleep 1000";

#[test]
fn a_process_that_is_stopped_or_frozen_ends_all_the_same() {
    let Some(place) = alone("a_process_that_is_stopped_or_frozen_ends_all_the_same") else { return };
    type Hold = fn(&Place, Pid);
    type Held = fn(&Place, Pid) -> bool;
    // A frozen process dies of a signal that it does not handle.
    let stubborn = "trap '' TERM; printf R >&4; exec sleep 1000";
    let holds: [(&str, &str, Hold, Held); 2] = [
        (
            "stopped",
            READY_AND_QUIET,
            |_, pid| kill(pid, Signal::SIGSTOP).unwrap(),
            |_, pid| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") T "),
        ),
        (
            "frozen",
            stubborn,
            |place, _| place.write("cgroup.freeze", "1"),
            |place, _| fs::read_to_string(place.0.join("leaf/cgroup.events")).unwrap().contains("frozen 1"),
        ),
    ];
    for (how, script, hold, held) in holds {
        let mut processes = shell(script);
        processes.start(recipe(&place, c"sh", Restarts::for_ever(PACE), Health::Unknown)).unwrap();
        until(&mut processes, "it is ready", |all| all.is_ready("it"));
        let pid = Pid::from_raw(processes.describe()[0].pid);
        hold(&place, pid);
        // Signals that wait are taken in order of their number: SIGTERM before a SIGSTOP that has not taken effect.
        until(&mut processes, how, |_| held(&place, pid));
        processes.begin_stop();
        processes.terminate(|_| true);
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(300) {
            turn(&mut processes);
        }
        assert!(running(&processes), "{how}: SIGTERM alone does not end it");
        processes.kill(|_| true);
        let ended = until(&mut processes, how, |all| !running(all));
        let by_kill =
            |one: &Happening| matches!(one, Happening::Ended { exit: Exit::Signal(9), next: None, .. });
        assert!(ended.iter().any(by_kill), "{how}: {ended:?}");
        assert_eq!(processes.describe()[0].state, "stopped");
        until(&mut processes, "its cgroup is empty", |all| all.list[0].recipe.leaf.is_empty());
        fs::remove_dir(place.0.join("leaf")).unwrap();
    }
}

#[test]
fn one_that_was_ready_and_is_silent_is_ended_and_started_again() {
    let Some(place) = alone("one_that_was_ready_and_is_silent_is_ended_and_started_again") else { return };
    let mut processes = shell(READY_AND_QUIET);
    processes.start(recipe(&place, c"sh", Restarts::for_ever(PACE), Health::Heartbeat)).unwrap();
    until(&mut processes, "it is ready", |all| all.is_ready("it"));
    assert_eq!(processes.describe()[0].health.as_deref(), Some("answering"));
    let hour = uptime() + Duration::from_secs(3600);
    processes.awake.turn(hour);
    turn(&mut processes);
    assert!(processes.is_ready("it"), "the machine stood still for an hour: nobody was silent");

    let silent_for = |processes: &mut Processes, seconds: u32| {
        (1..=seconds).for_each(|second| _ = processes.awake.turn(hour + second * Duration::from_secs(1)));
    };
    silent_for(&mut processes, 20);
    turn(&mut processes);
    let health = processes.describe()[0].health.clone();
    assert!(health.as_deref().is_some_and(|words| words.starts_with("silent for 2")), "{health:?}");
    assert!(processes.is_ready("it"));
    silent_for(&mut processes, 30);
    turn(&mut processes);
    assert_eq!(processes.missing(), 1, "it is not ready any more");
    let ended = until(&mut processes, "its end", |all| !running(all));
    let hung = |one: &Happening| {
        matches!(one, Happening::Ended { exit: Exit::Hung, next: Some(Next::RestartAt(_)), .. })
    };
    assert!(ended.iter().any(hung), "{ended:?}");
    let said = &processes.describe()[0];
    assert_eq!((said.state, said.last_exit.as_deref()), ("waiting", Some("killed, because it hung")));
    assert_eq!(said.health, None);
    until(&mut processes, "its restart", |all| all.describe()[0].restarts == 1);
}

#[test]
fn one_that_reports_and_falls_silent_is_ended_and_one_that_only_beats_is_not() {
    let Some(place) = alone("one_that_reports_and_falls_silent_is_ended_and_one_that_only_beats_is_not")
    else {
        return;
    };
    // Each line on its standard input is what it says next.
    let (script, mut say) = nix::unistd::pipe().map(|(read, write)| (read, File::from(write))).unwrap();
    let mut processes = Processes { null: script.into(), ..program("/bin/sh") };
    processes.start(recipe(&place, c"sh", Restarts::for_ever(PACE), Health::Reports)).unwrap();
    let heard = |processes: &mut Processes, say: &mut File, text: &str| {
        let before = processes.awake.turn(uptime());
        say.write_all(format!("printf {text} >&4\n").as_bytes()).unwrap();
        let happenings = until(processes, "it is heard", |all| all.list[0].heard >= before);
        happenings.iter().filter(|one| matches!(one, Happening::Reported { .. })).count()
    };
    let later = uptime();
    let mut second = 0;
    let mut passed = |processes: &mut Processes, seconds: u32| {
        (0..seconds).for_each(|_| {
            second += 1;
            _ = processes.awake.turn(later + second * Duration::from_secs(1));
        });
    };
    // No lease for minutes: it has nothing to report, and is well.
    for _ in 0..4 {
        assert_eq!(heard(&mut processes, &mut say, "H"), 0, "a beat is no happening");
        passed(&mut processes, 50);
        turn(&mut processes);
        assert!(running(&processes) && !processes.is_ready("it"));
    }
    assert_eq!(heard(&mut processes, &mut say, "lease"), 1);
    assert!(processes.is_ready("it"));
    assert_eq!(processes.describe()[0].health.as_deref(), Some("answering"));
    passed(&mut processes, 40);
    let ended = until(&mut processes, "its end", |all| !running(all));
    let hung = |one: &Happening| {
        matches!(one, Happening::Ended { exit: Exit::Hung, next: Some(Next::RestartAt(_)), .. })
    };
    assert!(ended.iter().any(hung), "{ended:?}");
}

#[test]
fn what_collateral_proves_is_heard_from_the_mesh_alone() {
    let Some(place) = alone("what_collateral_proves_is_heard_from_the_mesh_alone") else { return };
    // "P" and the second 1,800,000,000, little-endian; then, so that there is an end to wait for, readiness.
    let says = r"printf 'P\000\322\111\153\000\000\000\000' >&4; printf R >&4; exec sleep 1000";
    for (role, heard) in [(roles::MESH, true), (roles::AGENT, false)] {
        let mut processes = shell(says);
        processes.start(recipe(&place, role, Restarts::for_ever(PACE), Health::Heartbeat)).unwrap();
        let happenings = until(&mut processes, "it is ready", |all| all.is_ready("it"));
        let proven = happenings.iter().find_map(|one| match one {
            Happening::Reported { bytes, .. } => Proven::decode(bytes),
            _ => None,
        });
        let expected = Proven(Duration::from_secs(1_800_000_000));
        assert_eq!(proven, heard.then_some(expected), "{role:?}");
        processes.begin_stop();
        processes.kill(|_| true);
        until(&mut processes, "its end", |all| !running(all) && all.list[0].recipe.leaf.is_empty());
        fs::remove_dir(place.0.join("leaf")).unwrap();
    }
}

#[test]
fn one_without_a_heartbeat_may_be_silent() {
    let Some(place) = alone("one_without_a_heartbeat_may_be_silent") else { return };
    let mut processes = shell(READY_AND_QUIET);
    processes.start(recipe(&place, c"sh", Restarts::for_ever(PACE), Health::Unknown)).unwrap();
    until(&mut processes, "it is ready", |all| all.is_ready("it"));
    let later = uptime();
    (1..=120).for_each(|second| _ = processes.awake.turn(later + second * Duration::from_secs(1)));
    assert!(turn(&mut processes).is_empty() && running(&processes));
    processes.begin_stop();
    processes.kill(|_| true);
    until(&mut processes, "its end", |all| !running(all) && all.list[0].recipe.leaf.is_empty());
}

#[test]
fn one_that_never_gets_ready_is_ended_and_started_again() {
    let Some(place) = alone("one_that_never_gets_ready_is_ended_and_started_again") else { return };
    let mut processes = shell("printf H >&4; printf x >&4; exec sleep 1000");
    processes.start(recipe(&place, c"sh", Restarts::for_ever(PACE), Health::Heartbeat)).unwrap();
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(500) {
        turn(&mut processes);
    }
    assert!(!processes.is_ready("it"), "a heartbeat is not readiness");
    let later = uptime();
    let passed = |processes: &mut Processes, seconds: std::ops::RangeInclusive<u32>| {
        seconds.for_each(|second| _ = processes.awake.turn(later + second * Duration::from_secs(1)));
    };
    passed(&mut processes, 1..=50);
    assert!(turn(&mut processes).is_empty() && running(&processes), "it may take a minute");
    passed(&mut processes, 51..=62);
    let ended = until(&mut processes, "its end", |all| !running(all));
    let hung = |one: &Happening| {
        matches!(one, Happening::Ended { exit: Exit::Hung, next: Some(Next::RestartAt(_)), .. })
    };
    assert!(ended.iter().any(hung), "{ended:?}");
}

#[test]
fn a_forbidden_system_call_is_told_apart() {
    let Some(place) = alone("a_forbidden_system_call_is_told_apart") else { return };
    let mut processes = shell("kill -SYS $$");
    processes.start(recipe(&place, c"sh", Restarts::for_ever(PACE), Health::Unknown)).unwrap();
    let ended = until(&mut processes, "its end", |all| !running(all));
    assert!(
        matches!(ended.last(), Some(Happening::Ended { exit: Exit::ForbiddenCall, .. })),
        "expected SIGSYS: {ended:?}"
    );
}

/// The shell stands for a service's first process here, which ends with 128 and the signal.
#[test]
fn what_a_workload_died_of_is_told_apart_from_a_status() {
    let Some(place) = alone("what_a_workload_died_of_is_told_apart_from_a_status") else { return };
    let cases = [
        ("printf R >&4; printf 'S\\037' >&4; exit 159", Exit::ForbiddenCall),
        ("printf R >&4; exit 159", Exit::Code(159)),
        ("printf R >&4; printf 'S\\013' >&4; exit 139", Exit::Signal(11)),
    ];
    for (script, expected) in cases {
        let mut processes = shell(script);
        let restarts = Restarts::never();
        let service =
            Recipe { namespaces: Namespaces::Service, ..recipe(&place, c"sh", restarts, Health::Unknown) };
        processes.start(service).unwrap();
        let ended = until(&mut processes, "its end", |all| !running(all));
        let exit = ended.iter().find_map(|one| match one {
            Happening::Ended { exit, .. } => Some(*exit),
            Happening::Reported { .. } => None,
        });
        assert_eq!(exit, Some(expected), "{script}: {ended:?}");
        until(&mut processes, "its cgroup is empty", |all| all.list[0].recipe.leaf.is_empty());
        fs::remove_dir(place.0.join("leaf")).unwrap();
    }
}

#[test]
fn restart_rules_are_honoured_and_said() {
    let Some(place) = alone("restart_rules_are_honoured_and_said") else { return };
    let cases = [
        ("/bin/true", Restart::Never, "stopped", "status 0"),
        ("/bin/true", Restart::OnFailure, "stopped", "status 0"),
        ("/bin/false", Restart::Never, "stopped", "status 1"),
        ("/bin/false", Restart::OnFailure, "waiting", "status 1"),
        ("/bin/true", Restart::Always, "waiting", "status 0"),
    ];
    for (path, policy, state, last_exit) in cases {
        let mut processes = program(path);
        processes.start(recipe(&place, c"it", Restarts::of_service(policy), Health::Unknown)).unwrap();
        assert_eq!(processes.describe()[0].state, "starting");
        until(&mut processes, "its end", |all| !running(all));
        let said = &processes.describe()[0];
        assert_eq!((said.state, said.last_exit.as_deref()), (state, Some(last_exit)), "{path} {policy:?}");
        assert_eq!(said.until_ms.is_some(), state == "waiting");
        assert_eq!(processes.missing(), u64::from(state == "waiting"));
        fs::remove_dir(place.0.join("leaf")).unwrap();
    }
}

#[test]
fn who_reports_without_end_waits_for_the_next_second() {
    let Some(place) = alone("who_reports_without_end_waits_for_the_next_second") else { return };
    let mut processes = shell("while :; do printf x >&4; done");
    processes.start(recipe(&place, c"sh", Restarts::for_ever(PACE), Health::Unknown)).unwrap();
    let (begin, mut reports, mut not_watched) = (Instant::now(), 0, 0);
    while begin.elapsed() < Duration::from_secs(3) {
        reports += turn(&mut processes).len();
        // Its output is watched all the time.
        not_watched += usize::from(processes.watched().count() == 1);
    }
    // In each second, and in the one that had begun.
    let most = REPORTS * (usize::try_from(begin.elapsed().as_secs()).unwrap() + 2);
    assert!((REPORTS..=most).contains(&reports), "{reports} reports, expected at most {most}");
    assert!(not_watched > 0, "it is polled all the time");
    processes.begin_stop();
    processes.kill(|_| true);
    until(&mut processes, "its end", |all| !running(all) && all.list[0].recipe.leaf.is_empty());
}

/// What runs is this test itself, whose mappings are none of PID 1's business if it is a service.
#[test]
fn of_a_service_one_number_is_read() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("memory.current"), "5120000\n").unwrap();
    let mut processes = program("/bin/true");
    for namespaces in [Namespaces::Service, Namespaces::Shared] {
        let leaf = Leaf::of_directory(dir.path());
        let recipe = Recipe {
            name: format!("{namespaces:?}"),
            role: c"it",
            handover: Vec::new(),
            extra: Vec::new(),
            uid: None,
            namespaces,
            leaf,
            restarts: Restarts::never(),
            health: Health::Unknown,
        };
        processes.list.push(Process {
            recipe,
            state: State::Running { pid: Pid::this(), since: uptime(), ready: true, hung: false },
            output: Output::new("it").unwrap(),
            report: None,
            reports: Budget::new(REPORTS),
            heard: Duration::ZERO,
            killed: None,
            oom_kills_before: 0,
            listening: None,
            last_exit: None,
            memory: None,
        });
    }
    // What the kernel says of its processes would be counted, too.
    fs::write(dir.path().join("cgroup.procs"), format!("{}\n", std::process::id())).unwrap();
    processes.measure_memory();
    let [service, own] = &processes.describe()[..] else { panic!("two") };
    assert_eq!(service.memory, Some(status::Memory { rss_kb: 5000, pss_kb: 5000 }));
    assert_ne!(own.memory, service.memory);
    assert!(own.memory.is_some_and(|memory| memory.rss_kb > 0));
    processes.list.iter_mut().for_each(|process| process.state = State::Stopped);
    processes.measure_memory();
    assert!(
        processes.describe().iter().all(|process| process.memory.is_none()),
        "what does not run keeps nothing"
    );
}

/// With 63 services and their rings PID 1 has more than 512 descriptors.
#[test]
fn each_descriptor_arrives_wherever_it_was() {
    let Some(place) = alone("each_descriptor_arrives_wherever_it_was") else { return };
    let script = "for n in $(seq 5 44); do test $(cat /proc/self/fd/$n) = $n || exit 3; done; test ! -e /proc/self/fd/45 || exit 4
        printf R >&4; exec sleep 1000";
    let mut processes = shell(script);
    let null = File::open("/dev/null").unwrap();
    let filler: Vec<File> = (descriptors()..505).map(|_| null.try_clone().unwrap()).collect();
    // Each where an earlier one would be parked, if that began at 512.
    let extra: Vec<OwnedFd> =
        (5..45).map(|n| sys::memfd("extra", format!("{n}").as_bytes()).unwrap()).collect();
    let numbers: Vec<_> = extra.iter().map(std::os::fd::AsRawFd::as_raw_fd).collect();
    assert!((500..516).contains(&numbers[0]) && numbers[39] > 530, "{numbers:?}");
    let mut it = recipe(&place, c"sh", Restarts::never(), Health::Unknown);
    it.extra = extra;
    processes.start(it).unwrap();
    drop(filler);
    until(&mut processes, "its end or readiness", |all| all.is_ready("it") || !running(all));
    assert!(processes.is_ready("it"), "{:?}", processes.describe());
    processes.begin_stop();
    processes.kill(|_| true);
    until(&mut processes, "its end", |all| !running(all) && all.list[0].recipe.leaf.is_empty());
}
