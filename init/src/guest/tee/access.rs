//! Who may do what with the TEE's files (design section 5): the agent writes one `inblob` and opens the guest device;
//! nobody but root extends a register or makes a report directory.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use casemate_agent::tdx::Paths;
use casemate_measure::status::Reason;
use nix::mount::{MsFlags, mount};

use crate::boot::Failure;

/// Mounts configfs.
pub(super) fn mount_configfs(paths: &Paths) -> Result<(), Failure> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let target = paths.configfs();
    let nothing: Option<&str> = None;
    mount(Some("configfs"), &target, Some("configfs"), flags, nothing)
        .map_err(|error| failed(&target, "mount configfs", &error.into()))
}

/// Makes the one report directory, with the kernel's attributes in it.
pub(super) fn make_report(paths: &Paths) -> Result<(), Failure> {
    let report = paths.report();
    fs::create_dir(&report).map_err(|error| failed(&report, "make", &error))
}

/// Gives the agent what it needs, and checks that this is all that anybody but root has.
pub(super) fn grant(paths: &Paths, agent: u32) -> Result<(), Failure> {
    let device = paths.device();
    fs::set_permissions(&device, fs::Permissions::from_mode(0o600))
        .and_then(|()| chown(&device, Some(agent), Some(agent)))
        .map_err(|error| failed(&device, "give to the agent", &error))?;
    // The group stays root's: attributes have no rights for it.
    let inblob = paths.inblob();
    chown(&inblob, Some(agent), None).map_err(|error| failed(&inblob, "give to the agent", &error))?;

    expect(&device, agent, 0o600)?;
    expect(&inblob, agent, 0o600)?;
    expect(&paths.report(), 0, 0o755)?;
    for attribute in [paths.outblob(), paths.generation(), paths.provider()] {
        expect(&attribute, 0, 0o644)?;
    }
    (0..4).try_for_each(|index| expect(&paths.rtmr(index), 0, 0o644))
}

/// The owner, and no rights beyond these.
fn expect(path: &Path, owner: u32, most: u32) -> Result<(), Failure> {
    let meta = fs::symlink_metadata(path).map_err(|error| failed(path, "look at", &error))?;
    let mode = meta.permissions().mode() & 0o7777;
    if meta.uid() == owner && mode & !most == 0 {
        return Ok(());
    }
    Err(Failure::new(
        Reason::TeeAccess,
        format!(
            "{}: expected uid {owner} and mode {most:#o} or less, found uid {} and mode {mode:#o}",
            path.display(),
            meta.uid()
        ),
    ))
}

fn failed(path: &Path, action: &str, error: &io::Error) -> Failure {
    Failure::errno(Reason::TeeAccess, format!("{}: {action}", path.display()), error)
}
