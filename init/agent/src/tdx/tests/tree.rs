//! The real files of a tree, read and written as the kernel's are.

use std::fs::{self, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::PathBuf;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use super::boot_log::recorded_log;
use super::*;

/// A tree with recorded contents. What it cannot do as plain files: count generations and extend.
fn tree() -> (TempDir, Paths) {
    let dir = tempfile::tempdir().unwrap();
    let paths = Paths::under(dir.path());
    let quote = recorded().quote;
    let report = report_of(&quote);
    for path in [paths.report().join("x"), paths.rtmr(0), paths.boot_log(), paths.device()] {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
    }
    for (index, register) in (0..).zip(report.rtmr) {
        fs::write(paths.rtmr(index), register.0).unwrap();
    }
    fs::write(paths.provider(), "tdx_guest\n").unwrap();
    fs::write(paths.generation(), "0\n").unwrap();
    fs::write(paths.inblob(), "").unwrap();
    fs::write(paths.outblob(), quote).unwrap();
    fs::write(paths.boot_log(), recorded_log()).unwrap();
    (dir, paths)
}

#[test]
fn what_plain_files_hold_is_read() {
    let (_dir, paths) = tree();
    let device = Device::new(paths);
    let report = report_of(&recorded().quote);
    for (index, register) in (0..).zip(report.rtmr) {
        assert_eq!(device.rtmr(index).unwrap(), register);
    }
    device.check_provider().unwrap();
    assert_eq!(device.boot_log().unwrap(), recorded_log());
}

#[test]
fn a_file_that_only_keeps_what_is_written_is_no_register_and_no_report() {
    let (_dir, paths) = tree();
    let device = Device::new(paths.clone());
    let error = device.extend_rtmr3(&Register([9; 48])).unwrap_err().to_string();
    assert!(error.contains("rtmr3:sha384: after extending it: expected "), "{error}");
    assert_eq!(fs::read(paths.rtmr(3)).unwrap(), [9; 48], "48 bytes at offset 0");
    let error = device.quote(&[9; 64]).unwrap_err().to_string();
    assert!(error.ends_with("casemate/generation: after one write: expected 1, found 0"), "{error}");
    assert_eq!(fs::read(paths.inblob()).unwrap(), [9; 64]);
}

#[test]
fn what_is_absent_or_something_else_is_named() {
    for name in ["provider", "generation", "inblob", "outblob"] {
        let (_dir, paths) = tree();
        let path = paths.report().join(name);
        fs::remove_file(&path).unwrap();
        let error = Device::new(paths.clone()).quote(&[9; 64]).unwrap_err();
        assert!(error.to_string().starts_with(&format!("{}: ", path.display())), "{error}");
        assert_eq!(error.errno(), Some(libc::ENOENT));
        fs::create_dir(&path).unwrap();
        let error = Device::new(paths).quote(&[9; 64]).unwrap_err();
        assert_eq!(error.errno(), Some(libc::EISDIR), "{error}");
    }
    let (_dir, paths) = tree();
    fs::remove_file(paths.rtmr(3)).unwrap();
    let device = Device::new(paths.clone());
    assert_eq!(device.extend_rtmr3(&Register([9; 48])).unwrap_err().errno(), Some(libc::ENOENT));
    assert!(!paths.rtmr(3).exists(), "nothing is made");
    // No log is the one thing that may be absent; an endless one is refused.
    fs::remove_file(paths.boot_log()).unwrap();
    assert_eq!(device.boot_log().unwrap(), [0; 0]);
    std::os::unix::fs::symlink("/dev/zero", paths.boot_log()).unwrap();
    assert!(
        device.boot_log().unwrap_err().to_string().ends_with("expected at most 262144 bytes, found more")
    );
    // A disk that is full stands for a kernel that takes nothing.
    fs::remove_file(paths.inblob()).unwrap();
    std::os::unix::fs::symlink("/dev/full", paths.inblob()).unwrap();
    assert_eq!(device.quote(&[9; 64]).unwrap_err().errno(), Some(libc::ENOSPC));
}

/// The real calls on files, but for the ioctl, which only the driver answers.
#[derive(Clone, Copy, Debug)]
struct WithReport(TdReport);

impl Kernel for WithReport {
    fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        Linux.read(path, limit)
    }
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<usize> {
        Linux.write(path, bytes)
    }
    fn report(&self, _: &Path, report_data: &[u8; 64]) -> io::Result<[u8; TDREPORT_LEN]> {
        Ok(tdreport(&self.0, report_data))
    }
    fn pause(&self, time: Duration) {
        Linux.pause(time);
    }
}

/// Pipes behind the attributes' names: a thread plays the kernel, which acts once `inblob` was closed.
#[test]
fn a_quote_is_one_write_closed_before_the_answer_is_read() {
    let (_dir, paths) = tree();
    let pipes = [paths.generation(), paths.inblob(), paths.outblob()];
    for pipe in &pipes {
        fs::remove_file(pipe).unwrap();
        mkfifo(pipe, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    }
    let quote = recorded().quote;
    let report = report_of(&quote);
    let kernel = std::thread::spawn(move || {
        let [generation, inblob, outblob] = pipes;
        let say = |path: &PathBuf, bytes: &[u8]| {
            OpenOptions::new().write(true).open(path).unwrap().write_all(bytes).unwrap();
        };
        say(&generation, b"41\n");
        // Ends only when the writer has closed.
        let (mut file, mut asked, mut part) = (fs::File::open(inblob).unwrap(), Vec::new(), [0; 1024]);
        let mut writes = 0;
        loop {
            match file.read(&mut part).unwrap() {
                0 => break,
                length => asked.extend_from_slice(&part[..length]),
            }
            writes += 1;
        }
        let mut answer = recorded().quote;
        answer[568..632].copy_from_slice(&asked);
        say(&outblob, &answer);
        say(&generation, b"42\n");
        (asked, writes)
    });
    let tee = TdxTee::open(Device::with(paths, Box::new(WithReport(report))), &recorded_log()).unwrap();
    assert_eq!(tee.boot_events().len(), 20);
    let made = tee.quote(&[0x77; 64]).unwrap();
    assert_eq!(report_of(&made).report_data, [0x77; 64]);
    assert_eq!(made.len(), quote.len());
    assert_eq!(kernel.join().unwrap(), (vec![0x77; 64], 1));
}
