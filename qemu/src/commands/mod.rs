//! The commands: arguments in, library calls, words out.

mod acpi;
mod boot;
mod control;
mod doctor;
mod frames;
mod machine;
mod outside;
mod status;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Boots a Casemate image in QEMU.
#[derive(Debug, Parser)]
#[command(name = "casemate-qemu", bin_name = "cargo qemu", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot an image and stay until it ends; Ctrl-C powers it off in order, a second one at once
    Boot(boot::Boot),
    /// Print QEMU's exact arguments, as one shell line or one a line
    Argv(boot::Argv),
    /// Capture the digests of the ACPI tables that the firmware of a TDX machine measures, without TDX
    Acpi(acpi::Acpi),
    /// Wait until the machine of a run directory is ready
    Wait(control::Wait),
    /// Power off the machine of a run directory and wait for its end
    Stop(control::Stop),
    /// Show a machine from outside: QEMU, the last frame, and in the development flavour its status document
    Status(status::Status),
    /// Say what this host can and cannot do, and why
    Doctor(doctor::Doctor),
    /// Count the frames of a packet dump, and those that go to an address
    Frames(frames::Frames),
    /// Listen, and count the connections (the demo's outside)
    Outside(outside::Outside),
}

/// Runs one command; an error becomes one line and the exit status of its kind.
pub(crate) fn run(cli: Cli) -> ExitCode {
    let result = match cli.command {
        Command::Boot(boot) => boot.run(),
        Command::Argv(argv) => argv.run(),
        Command::Acpi(acpi) => acpi.run(),
        Command::Wait(wait) => wait.run(),
        Command::Stop(stop) => stop.run(),
        Command::Status(status) => status.run(),
        Command::Doctor(doctor) => doctor.run(),
        Command::Frames(frames) => frames.run(),
        Command::Outside(outside) => outside.run(),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("casemate-qemu: {error:#}");
            let status =
                error.downcast_ref::<casemate_qemu::Error>().map_or(1, casemate_qemu::Error::exit_status);
            ExitCode::from(status)
        }
    }
}
