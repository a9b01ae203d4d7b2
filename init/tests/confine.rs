//! Profiles and Landlock on the kernel that runs here: a child of this very test enters one and tries something.

#![expect(clippy::unwrap_used, clippy::exit, reason = "tests: what fails here fails the test")]

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;

use casemate_init::confine::{self, Kernel, Profile, Reach};
use nix::errno::Errno;

/// What the child is told to do.
const TASK: &str = "CONFINE_TASK";
/// What its shell runs, where the task is to run one.
const SCRIPT: &str = "CONFINE_SCRIPT";
/// SIGSYS, signal(7).
const SIGSYS: i32 = 31;

/// Not a test of its own: what the children of the others do.
#[test]
fn child() {
    let Ok(task) = std::env::var(TASK) else { return };
    let (what, profile) = task.split_once(' ').unwrap();
    let profile = || *Profile::ALL.iter().find(|one| one.name() == profile).unwrap();
    let failed = match what {
        "unlisted" => {
            confine::enter(profile()).unwrap();
            // As root, without a filter, it works.
            nix::unistd::chroot("/") != Err(Errno::EPERM)
        }
        "listed" => {
            confine::enter(profile()).unwrap();
            // What ending takes is on every list.
            false
        }
        "thread" => {
            let (entered, wait) = mpsc::channel();
            let thread = std::thread::spawn(move || {
                wait.recv().unwrap();
                _ = nix::unistd::chroot("/");
            });
            confine::enter(profile()).unwrap();
            entered.send(()).unwrap();
            thread.join().unwrap();
            false
        }
        "exec" => {
            confine::enter(Profile::Service).unwrap();
            let error = Command::new("sh").args(["-c", &std::env::var(SCRIPT).unwrap()]).exec();
            panic!("{error}");
        }
        "undumpable" => {
            confine::enter(profile()).unwrap();
            nix::sys::prctl::get_dumpable().unwrap()
        }
        "nothing" => {
            let (socket, abstract_socket) =
                (std::env::var("SOCKET").unwrap(), std::env::var("ABSTRACT").unwrap());
            let address = SocketAddr::from_abstract_name(abstract_socket).unwrap();
            let parent = nix::unistd::getppid();
            Reach::nothing().enter(Kernel::Older).unwrap();
            let denied = |result: Result<(), std::io::Error>| {
                result.unwrap_err().kind() == std::io::ErrorKind::PermissionDenied
            };
            let all = [
                denied(std::fs::read("/etc/hostname").map(|_| ())),
                denied(std::fs::write("/tmp/confine-test", "x")),
                denied(std::fs::remove_file(socket)),
                denied(std::net::TcpListener::bind("127.0.0.1:0").map(|_| ())),
                denied(std::net::TcpStream::connect("127.0.0.1:1").map(|_| ())),
                denied(UnixStream::connect_addr(&address).map(|_| ())),
                nix::sys::signal::kill(parent, None) == Err(Errno::EPERM),
            ];
            if all.contains(&false) {
                println!("{all:?}");
            }
            all.contains(&false)
        }
        "ports" => {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            Reach::nothing().connect_tcp(port).enter(Kernel::Older).unwrap();
            std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
            std::net::TcpListener::bind(("127.0.0.1", port)).is_ok()
        }
        "pinned" => match Reach::nothing().enter(Kernel::Pinned) {
            Ok(()) => std::fs::read("/etc/hostname").is_ok(),
            // All or nothing: what an older kernel knows is not entered either.
            Err(error) => {
                println!("{error}");
                std::fs::read("/proc/self/stat").is_err()
            }
        },
        other => panic!("no such task: {other}"),
    };
    std::process::exit(i32::from(failed));
}

fn task(what: &str, profile: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child", "--nocapture"])
        .env(TASK, format!("{what} {profile}"))
        .stdin(Stdio::null());
    command
}

fn run(what: &str, profile: Profile) -> ExitStatus {
    task(what, profile.name()).output().unwrap().status
}

/// Whether this kernel has Landlock's scopes (ABI 6).
fn landlock() -> bool {
    let status = task("ports", "-").output().unwrap();
    let missing = String::from_utf8_lossy(&status.stderr).contains("Landlock: ");
    if missing {
        println!("SKIPPED: this kernel has no Landlock of ABI 6");
    }
    !missing
}

#[test]
fn an_unlisted_call_ends_a_process_of_ours_and_fails_in_a_service() {
    for &profile in Profile::ALL {
        let ended = run("unlisted", profile);
        if profile == Profile::Service {
            assert_eq!(ended.code(), Some(0), "{}: {ended}", profile.name());
        } else {
            assert_eq!(ended.signal(), Some(SIGSYS), "{}: {ended}", profile.name());
        }
        let ended = run("listed", profile);
        assert_eq!(ended.code(), Some(0), "{}: {ended}", profile.name());
    }
}

#[test]
fn the_filter_holds_for_threads_that_run_already() {
    assert_eq!(run("thread", Profile::Mesh).signal(), Some(SIGSYS));
    assert_eq!(run("thread", Profile::Service).code(), Some(0));
}

#[test]
fn the_process_is_not_dumpable() {
    assert_eq!(run("undumpable", Profile::Service).code(), Some(0));
}

#[test]
fn nothing_is_nothing() {
    if !landlock() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let _listener = UnixListener::bind(&socket).unwrap();
    let name = format!("casemate-confine-{}", std::process::id());
    let _abstract = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let ended = task("nothing", "-").env("SOCKET", &socket).env("ABSTRACT", &name).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stdout));
}

#[test]
fn a_named_port_is_open_for_what_it_was_named_for() {
    if landlock() {
        assert!(task("ports", "-").output().unwrap().status.success());
    }
}

#[test]
fn less_than_the_pinned_kernel_has_is_refused() {
    let ended = task("pinned", "-").output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stdout));
}

/// Dynamic programs: a shell, pipes, signals, threads of sort(1), a FIFO.
#[test]
fn a_service_can_run_programs() {
    let dir = tempfile::tempdir().unwrap();
    let script = "set -e; mkfifo fifo; seq 2000 | sort -rn --parallel=4 > fifo & read -r first < fifo; test $first = 2000
        trap 'echo caught > caught' USR1; kill -USR1 $$; test -s caught; ln caught other; mv other moved; rm moved; date; df .
        ! chroot / true 2> refused; grep -q 'not permitted' refused; ! unshare -U true 2> refused";
    let mut command = task("exec", "-");
    let ended = command.env(SCRIPT, script).current_dir(dir.path()).output().unwrap();
    assert!(ended.status.success(), "{}: {}", ended.status, String::from_utf8_lossy(&ended.stderr));
}
