//! PID 1's side of TDX on a kernel of paper, and the agent's way on a tree of files, as root.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use casemate_agent::TeeHandover;
use casemate_agent::tdx::{Device, Kernel, Linux, Paths, REPORT_DATA_LEN, TDREPORT_LEN};
use casemate_measure::Register;
use casemate_measure::status::Reason;
use casemate_mesh::Trust;

use super::tdx::TdxGuest;
use super::{GuestTee, access};
use crate::confine::{self, Profile, Reach};
use crate::layout::AGENT_UID;

/// What the driver would have.
#[derive(Clone, Debug)]
struct Td {
    debug: bool,
    rtmr: [Register; 4],
    /// What sysfs says, where it differs.
    sysfs: Option<(usize, Register)>,
    extends: bool,
    log: Option<Vec<u8>>,
}

impl Td {
    fn launched() -> Self {
        let rtmr = [Register([1; 48]), Register([2; 48]), Register([3; 48]), Register::ZERO];
        Self { debug: false, rtmr, sysfs: None, extends: true, log: Some(b"a log".to_vec()) }
    }
}

#[derive(Clone, Debug)]
struct Fake(Arc<Mutex<Td>>);

impl Fake {
    fn ask(td: Td) -> (Self, Result<TdxGuest, crate::boot::Failure>) {
        let fake = Self(Arc::new(Mutex::new(td)));
        let device = Device::with(Paths::under("/"), Box::new(fake.clone()));
        (fake, TdxGuest::ask(device))
    }
}

/// Which RTMR a file is.
fn index_of(path: &Path) -> Option<usize> {
    let name = path.file_name()?.to_str()?;
    name.strip_prefix("rtmr")?.strip_suffix(":sha384")?.parse().ok()
}

impl Kernel for Fake {
    fn read(&self, path: &Path, _: usize) -> io::Result<Vec<u8>> {
        let td = self.0.lock().unwrap();
        let absent = || io::Error::from_raw_os_error(libc::ENOENT);
        let Some(index) = index_of(path) else {
            return if path.ends_with("CCEL") { td.log.clone().ok_or_else(absent) } else { Err(absent()) };
        };
        let shown = td.sysfs.filter(|(other, _)| *other == index).map_or(td.rtmr[index], |(_, other)| other);
        Ok(shown.0.to_vec())
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<usize> {
        let mut td = self.0.lock().unwrap();
        assert_eq!(index_of(path), Some(3), "{}", path.display());
        let digest = Register(bytes.try_into().map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?);
        if td.extends {
            td.rtmr[3] = td.rtmr[3].extended(&digest);
        }
        Ok(bytes.len())
    }

    fn report(&self, _: &Path, asked: &[u8; REPORT_DATA_LEN]) -> io::Result<[u8; TDREPORT_LEN]> {
        let td = self.0.lock().unwrap();
        let mut report = [0; TDREPORT_LEN];
        report[0] = 0x81;
        report[128..192].copy_from_slice(asked);
        report[512] = u8::from(td.debug);
        report[576..624].fill(0x0c);
        for (to, register) in report[720..912].chunks_exact_mut(48).zip(td.rtmr) {
            to.copy_from_slice(&register.0);
        }
        Ok(report)
    }

    fn pause(&self, _: Duration) {}
}

fn refused(td: Td) -> (Reason, String) {
    let failure = Fake::ask(td).1.unwrap_err();
    (failure.reason, failure.text)
}

#[test]
fn a_td_that_nobody_touched_is_used() {
    let (fake, tdx) = Fake::ask(Td::launched());
    let mut tee = GuestTee::Tdx(tdx.unwrap());
    assert_eq!(tee.mr_config_id().0, [0x0c; 48]);
    assert_eq!(tee.launch().rtmr2, Register([3; 48]));
    assert_eq!((tee.trust(), tee.words()), (Trust::Intel, ("tdx", "intel")));
    let digests = [Register([7; 48]), Register([8; 48])];
    digests.iter().for_each(|digest| tee.extend(digest).unwrap());
    let replayed = Register::ZERO.extended(&digests[0]).extended(&digests[1]);
    assert_eq!(fake.0.lock().unwrap().rtmr[3], replayed);
    let given = tee.handover().unwrap();
    assert_eq!(given, TeeHandover::Tdx { root: "/".into(), boot_log: b"a log".to_vec() });
    // A machine without a log has none to hand over.
    fake.0.lock().unwrap().log = None;
    assert_eq!(tee.handover().unwrap(), TeeHandover::Tdx { root: "/".into(), boot_log: Vec::new() });
}

#[test]
fn a_td_that_is_not_as_it_must_be_is_refused() {
    let mut extended = Td::launched();
    extended.rtmr[3] = Register([9; 48]);
    let (reason, text) = refused(extended);
    assert_eq!(reason, Reason::TeeSilent);
    assert!(text.starts_with("RTMR3: expected zero before the first event, found 0909"), "{text}");
    for index in 0..4 {
        let (reason, text) = refused(Td { sysfs: Some((index, Register([5; 48]))), ..Td::launched() });
        assert_eq!(reason, Reason::TeeSilent);
        assert!(
            text.starts_with(&format!("RTMR{index}: expected ")) && text.contains("found 0505"),
            "{text}"
        );
    }
    let (_, debug) = Fake::ask(Td { debug: true, ..Td::launched() });
    match debug {
        Err(failure) if !cfg!(feature = "dev") => assert_eq!(failure.reason, Reason::TeeDebug),
        debug => assert!(cfg!(feature = "dev") && debug.is_ok()),
    }
}

#[test]
fn an_extend_that_did_not_happen_or_was_not_ours_ends_the_boot() {
    let (fake, tdx) = Fake::ask(Td::launched());
    let mut tdx = tdx.unwrap();
    fake.0.lock().unwrap().extends = false;
    let failure = tdx.extend(&Register([7; 48])).unwrap_err();
    assert_eq!(failure.reason, Reason::ExtendFailed);
    assert!(failure.text.contains("rtmr3:sha384: after extending it: expected "), "{failure}");

    let (fake, tdx) = Fake::ask(Td::launched());
    let mut tdx = tdx.unwrap();
    fake.0.lock().unwrap().rtmr[3] = Register([9; 48]);
    let failure = tdx.extend(&Register([7; 48])).unwrap_err();
    assert_eq!(failure.reason, Reason::ExtendFailed);
    assert!(failure.text.ends_with("somebody else extended it"), "{failure}");
}

#[test]
fn without_the_drivers_device_there_is_no_tdx_and_another_file_is_no_device() {
    let dir = tempfile::tempdir().unwrap();
    assert!(TdxGuest::find(Paths::under(dir.path())).unwrap().is_none());
    fs::create_dir(dir.path().join("dev")).unwrap();
    fs::write(dir.path().join("dev/tdx_guest"), "").unwrap();
    let failure = TdxGuest::find(Paths::under(dir.path())).unwrap_err();
    assert_eq!((failure.reason, failure.detail), (Reason::TeeSilent, libc::ENOTTY.cast_unsigned().into()));
}

#[test]
fn a_machine_without_tdx() {
    if Path::new("/dev/tdx_guest").exists() {
        eprintln!("SKIPPED: this machine is a TD");
        return;
    }
    match GuestTee::find() {
        Err(failure) => assert!(!cfg!(feature = "dev") && failure.reason == Reason::NoTee, "{failure}"),
        Ok(tee) => assert_eq!(tee.words(), ("simulator", "simulator")),
    }
}

/// The files and modes as the kernel makes them (fs/configfs, drivers/virt/coco/guest/{report,tsm-mr}.c,
/// drivers/acpi/sysfs.c); all of them root's.
fn tree(root: &Path) -> Paths {
    let paths = Paths::under(root);
    let other = paths.report().with_file_name("other");
    let measurements = paths.rtmr(0).with_file_name("mrtd:sha384");
    let files = [
        (paths.device(), 0o600),
        (paths.inblob(), 0o200),
        (paths.outblob(), 0o444),
        (paths.generation(), 0o444),
        (paths.provider(), 0o444),
        (other.join("inblob"), 0o200),
        (other.join("outblob"), 0o444),
        (measurements, 0o444),
        (paths.rtmr(0), 0o644),
        (paths.rtmr(1), 0o644),
        (paths.rtmr(2), 0o644),
        (paths.rtmr(3), 0o644),
        (paths.boot_log(), 0o400),
    ];
    fs::set_permissions(root, Permissions::from_mode(0o755)).unwrap();
    for (file, mode) in files {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
    }
    paths
}

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: giving files away and becoming another uid needs root");
    }
    root
}

/// Whether a process of the agent's uid, without groups and capabilities, can do this to the file.
fn agent_can(what: &str, path: &Path) -> bool {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", what, "sh"]).arg(path).uid(AGENT_UID).gid(AGENT_UID);
    shell.stdin(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
}

const READ: &str = r#"exec 3<"$1""#;
const WRITE: &str = r#"exec 3>>"$1""#;
const BOTH: &str = r#"exec 3<>"$1""#;

#[test]
fn the_agent_can_write_one_inblob_and_open_the_device_and_nothing_more() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let paths = tree(dir.path());
    assert!(!agent_can(WRITE, &paths.inblob()) && !agent_can(BOTH, &paths.device()));
    access::grant(&paths, AGENT_UID).unwrap();

    assert!(agent_can(WRITE, &paths.inblob()));
    assert!(agent_can(BOTH, &paths.device()));
    for attribute in [paths.outblob(), paths.generation(), paths.provider()] {
        assert!(agent_can(READ, &attribute), "{}", attribute.display());
        assert!(!agent_can(WRITE, &attribute), "{}", attribute.display());
    }
    for index in 0..4 {
        assert!(agent_can(READ, &paths.rtmr(index)));
        assert!(!agent_can(WRITE, &paths.rtmr(index)), "RTMR{index}");
        assert!(!agent_can(r#"chmod 666 "$1""#, &paths.rtmr(index)), "RTMR{index}");
    }
    let reports = paths.report().parent().unwrap().to_owned();
    assert!(!agent_can(WRITE, &reports.join("other/inblob")));
    assert!(!agent_can(r#"mkdir "$1""#, &reports.join("mine")));
    assert!(!agent_can(r#"mkdir "$1""#, &paths.report().join("mine")));
    assert!(!agent_can(r#"rm -f "$1""#, &paths.outblob()));
    assert!(!agent_can(READ, &paths.boot_log()));
}

/// In this variable a child finds the tree's root.
const ROOT: &str = "CASEMATE_TEST_TEE";

/// Not a test of its own: what the child of [`the_confined_agent_reaches_its_report_and_no_other_file`] does.
#[test]
fn confined_child() {
    let Some(root) = std::env::var_os(ROOT) else { return };
    let paths = Paths::under(&root);
    let handover = TeeHandover::Tdx { root: root.into(), boot_log: Vec::new() };
    let reach = handover.files().into_iter().fold(Reach::nothing(), Reach::read_write);
    // As `roles/agent.rs` does; the machine that builds may have an older kernel than the image.
    reach.enter(confine::Kernel::Older).unwrap();
    confine::enter(Profile::Agent).unwrap();

    let other = paths.report().with_file_name("other");
    let done = |result: io::Result<usize>| result.map_err(|error| error.raw_os_error());
    let read = |path: &Path| done(Linux.read(path, 64).map(|bytes| bytes.len()));
    let write = |path: &Path| done(Linux.write(path, &[9; 64]));
    assert_eq!(write(&paths.inblob()), Ok(64));
    for attribute in [paths.outblob(), paths.generation(), paths.provider()] {
        assert_eq!(read(&attribute), Ok(0), "{}", attribute.display());
        assert_eq!(write(&attribute), Err(Some(libc::EACCES)), "{}", attribute.display());
    }
    // The ioctl passes both walls, and the file behind it, which is no device, says what it is.
    let report = Linux.report(&paths.device(), &[9; 64]).map(|_| 0);
    assert_eq!(done(report), Err(Some(libc::ENOTTY)));
    for index in 0..4 {
        // Readable by everybody, were it not for Landlock.
        assert_eq!(read(&paths.rtmr(index)), Err(Some(libc::EACCES)), "RTMR{index}");
        assert_eq!(write(&paths.rtmr(index)), Err(Some(libc::EACCES)), "RTMR{index}");
    }
    for file in [other.join("outblob"), other.join("inblob"), paths.boot_log(), "/proc/self/status".into()] {
        assert_eq!(read(&file), Err(Some(libc::EACCES)), "{}", file.display());
    }
    println!("reached what it may");
}

#[test]
fn the_confined_agent_reaches_its_report_and_no_other_file() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let paths = tree(dir.path());
    access::grant(&paths, AGENT_UID).unwrap();
    // The binary may lie where uid 101 cannot go.
    let binary = dir.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    fs::set_permissions(&binary, Permissions::from_mode(0o755)).unwrap();
    let mut child = Command::new(&binary);
    child.args(["--exact", "--nocapture", "guest::tee::tests::confined_child"]);
    let output = child.env(ROOT, dir.path()).uid(AGENT_UID).gid(AGENT_UID).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("reached what it may"), "{:?}\n{said}\n{complained}", output.status);
    assert_eq!(fs::read(paths.inblob()).unwrap(), [9; 64]);
}

/// What somebody changed, and where that is found.
type Case = (fn(&Paths) -> std::path::PathBuf, u32, u32);

#[test]
fn rights_that_others_have_end_the_boot() {
    if !is_root() {
        return;
    }
    let cases: [Case; 9] = [
        (|paths| paths.rtmr(0), 0, 0o664),
        (|paths| paths.rtmr(1), 0, 0o646),
        (|paths| paths.rtmr(2), AGENT_UID, 0o644),
        (|paths| paths.rtmr(3), 1000, 0o444),
        (|paths| paths.outblob(), 0, 0o666),
        (|paths| paths.generation(), AGENT_UID, 0o644),
        (|paths| paths.inblob(), 0, 0o222),
        (|paths| paths.report(), AGENT_UID, 0o755),
        (|paths| paths.report(), 0, 0o777),
    ];
    for (path, uid, mode) in cases {
        let dir = tempfile::tempdir().unwrap();
        let paths = tree(dir.path());
        let path = path(&paths);
        chown(&path, Some(uid), None).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let failure = access::grant(&paths, AGENT_UID).unwrap_err();
        assert_eq!(failure.reason, Reason::TeeAccess);
        assert!(failure.text.starts_with(&format!("{}: expected uid ", path.display())), "{failure}");
    }
    for path in [Paths::inblob, Paths::device, Paths::outblob, Paths::provider, |paths: &Paths| paths.rtmr(3)]
    {
        let dir = tempfile::tempdir().unwrap();
        let paths = tree(dir.path());
        fs::remove_file(path(&paths)).unwrap();
        let failure = access::grant(&paths, AGENT_UID).unwrap_err();
        assert_eq!(
            (failure.reason, failure.detail),
            (Reason::TeeAccess, libc::ENOENT.cast_unsigned().into())
        );
    }
}

/// A report directory that somebody made before is not ours.
#[test]
fn the_report_directory_is_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::under(dir.path());
    let failure = access::make_report(&paths).unwrap_err();
    assert_eq!((failure.reason, failure.detail), (Reason::TeeAccess, libc::ENOENT.cast_unsigned().into()));
    fs::create_dir_all(paths.report().parent().unwrap()).unwrap();
    access::make_report(&paths).unwrap();
    let failure = access::make_report(&paths).unwrap_err();
    assert_eq!((failure.reason, failure.detail), (Reason::TeeAccess, libc::EEXIST.cast_unsigned().into()));
}
