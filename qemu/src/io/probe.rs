//! Gathers [`HostFacts`]. Every try is bounded.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::host::{Fact, HostFacts, QemuFacts};

/// How long QEMU may take to say its version.
const ASK: Duration = Duration::from_secs(20);
/// How long the test guest may take. Under KVM it ends in a fraction of a second; where KVM is broken it hangs.
const TRY: Duration = Duration::from_secs(10);
/// What QEMU exits with when the guest writes 0x10 to `isa-debug-exit`: `(0x10 << 1) | 1` (QEMU `hw/misc/debugexit.c`).
const TEST_GUEST_DONE: i32 = 33;

/// Gathers all facts with that QEMU program.
pub fn facts(program: &str) -> HostFacts {
    let qemu = qemu(program);
    let kvm_device = kvm_device();
    let cpu_flags = cpu_flags();
    let kvm_try = match (&qemu, &kvm_device, &cpu_flags) {
        (Ok(_), Ok(_), Ok(_)) => run_test_guest(program, "kvm", "host"),
        _ => Err("not tried: something that it needs is missing".into()),
    };
    HostFacts { qemu, kvm_device, cpu_flags, kvm_try, tdx_module: tdx_module() }
}

fn qemu(program: &str) -> Result<QemuFacts, String> {
    let text = said(program, &["--version"])?;
    let version =
        version(&text).ok_or_else(|| format!("{program} --version: expected QEMU's, found {text:?}"))?;
    // A QEMU with the object describes its properties; one without it says so and fails.
    let objects = said(program, &["-object", "help"])?;
    let tdx_guest = objects.lines().any(|line| line.trim() == "tdx-guest");
    Ok(QemuFacts { program: program.into(), version, tdx_guest })
}

/// `QEMU emulator version 7.2.22 (…)`.
fn version(text: &str) -> Option<(u32, u32)> {
    let numbers = text.strip_prefix("QEMU emulator version ")?;
    let mut parts = numbers.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

fn kvm_device() -> Fact {
    match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Ok("/dev/kvm opens".into()),
        Err(error) => Err(format!("/dev/kvm: {error}")),
    }
}

fn cpu_flags() -> Fact {
    let text = std::fs::read_to_string("/proc/cpuinfo").map_err(|error| format!("/proc/cpuinfo: {error}"))?;
    let flags = text.lines().find_map(|line| line.strip_prefix("flags")).unwrap_or_default();
    match flags.split_whitespace().find(|flag| matches!(*flag, "vmx" | "svm")) {
        Some(flag) => Ok(format!("the CPU has {flag}")),
        None => {
            Err("the CPU shows neither vmx nor svm, so /dev/kvm, if there is one, cannot run a guest".into())
        }
    }
}

fn tdx_module() -> Fact {
    let path = "/sys/module/kvm_intel/parameters/tdx";
    match std::fs::read_to_string(path) {
        Ok(text) if matches!(text.trim(), "Y" | "1") => Ok(format!("{path} is {}", text.trim())),
        Ok(text) => Err(format!("no TDX: {path} is {:?}, not Y", text.trim())),
        Err(error) => Err(format!("no TDX: {path}: {error}")),
    }
}

/// Runs a guest of 37 bytes to its end.
///
/// # Errors
/// What QEMU said, or that it did not end in time.
pub fn run_test_guest(program: &str, accel: &str, cpu: &str) -> Fact {
    let mut kernel = tempfile::NamedTempFile::new().map_err(|error| format!("temporary file: {error}"))?;
    kernel.write_all(&test_guest()).map_err(|error| format!("temporary file: {error}"))?;
    let mut command = Command::new(program);
    command
        .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "q35"])
        .args([
            "-accel",
            accel,
            "-cpu",
            cpu,
            "-m",
            "64M",
            "-device",
            "isa-debug-exit,iobase=0xf4,iosize=0x04",
        ])
        .arg("-kernel")
        .arg(kernel.path());
    let begin = Instant::now();
    let (status, text) = bounded(&mut command, TRY)?;
    match status.code() {
        Some(TEST_GUEST_DONE) => {
            Ok(format!("a test guest ran to its end in {} ms", begin.elapsed().as_millis()))
        }
        _ => Err(format!(
            "a test guest did not run under {accel}: {status}: {}",
            text.trim().replace('\n', "; ")
        )),
    }
}

/// A multiboot kernel (Multiboot Specification 0.6.96, section 3.1, address fields in the header) that writes 0x10 to the
/// port of `isa-debug-exit` and halts.
fn test_guest() -> Vec<u8> {
    const MAGIC: u32 = 0x1bad_b002;
    const ADDRESSES: u32 = 1 << 16;
    const LOAD: u32 = 0x10_0000;
    let header =
        [MAGIC, ADDRESSES, 0_u32.wrapping_sub(MAGIC).wrapping_sub(ADDRESSES), LOAD, LOAD, 0, 0, LOAD + 32];
    // mov al, 0x10; out 0xf4, al; hlt
    header.iter().flat_map(|word| word.to_le_bytes()).chain([0xb0, 0x10, 0xe6, 0xf4, 0xf4]).collect()
}

fn said(program: &str, args: &[&str]) -> Result<String, String> {
    let (status, text) = bounded(Command::new(program).args(args), ASK)?;
    if status.success() {
        Ok(text)
    } else {
        Err(format!("{program} {}: {status}: {}", args.join(" "), text.trim()))
    }
}

/// Runs a command to its end or to the limit; what it printed on both outputs.
fn bounded(command: &mut Command, limit: Duration) -> Result<(ExitStatus, String), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |error: std::io::Error| format!("{program}: {error}");
    let mut output = tempfile::tempfile().map_err(failed)?;
    command.stdin(Stdio::null()).stdout(output.try_clone().map_err(failed)?);
    let mut child = command.stderr(output.try_clone().map_err(failed)?).spawn().map_err(failed)?;
    let begin = Instant::now();
    let status = loop {
        match child.try_wait().map_err(failed)? {
            Some(status) => break status,
            None if begin.elapsed() >= limit => {
                child.kill().and_then(|()| child.wait()).map_err(failed)?;
                return Err(format!("{program}: did not end within {} s", limit.as_secs()));
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let mut text = Vec::new();
    output.rewind().and_then(|()| output.read_to_end(&mut text)).map_err(failed)?;
    Ok((status, String::from_utf8_lossy(&text).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(version("QEMU emulator version 7.2.22 (Debian 1:7.2)\n"), Some((7, 2)));
        assert_eq!(version("QEMU emulator version 11.1.3"), Some((11, 1)));
        assert_eq!(version("something else 1.2"), None);
    }

    #[test]
    fn a_command_that_hangs_is_ended() {
        let begin = Instant::now();
        let error = bounded(Command::new("sleep").arg("60"), Duration::from_millis(50)).unwrap_err();
        assert!(error.contains("did not end"), "{error}");
        assert!(begin.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_missing_program_is_named() {
        let facts = facts("/nonexistent/qemu");
        assert!(facts.qemu.unwrap_err().starts_with("/nonexistent/qemu: "));
        assert!(facts.kvm_try.is_err());
    }
}
