//! `/init`: PID 1 of the guest, and, by the name it is called, the guest's other processes.

use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    if let Some(code) = casemate_init::roles::run(name.as_bytes()) {
        return code;
    }
    // Arguments and environment of PID 1 are words of the kernel's command line: ignored.
    if std::process::id() == 1 {
        casemate_init::guest::run();
    }
    eprintln!("casemate-init: this is PID 1 of an appliance image; `cargo qemu boot` starts one");
    ExitCode::from(64)
}
