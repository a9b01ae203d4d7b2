//! `/init`: PID 1 of the guest, and, by the name it is called, the guest's other processes.

use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    if let Some(code) = casemate_init::roles::run(name.as_bytes()) {
        return code;
    }
    // Arguments and environment of PID 1 are words of the kernel's command line: ignored.
    if casemate_init::guest::is_first_process() {
        casemate_init::guest::run();
    }
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    if let Some((first, rest)) = arguments.split_first()
        && first == "status"
    {
        return casemate_init::status::command::run(rest);
    }
    if let Some((first, rest)) = arguments.split_first()
        && first == "vpn"
    {
        return casemate_init::vpn::command::run(rest);
    }
    eprintln!(
        "casemate-init: this is PID 1 of an appliance image; `cargo qemu boot` starts one; `casemate-init status` shows its state from inside; `casemate-init vpn` joins a tailnet from elsewhere"
    );
    ExitCode::from(64)
}
