//! Files: what is mounted, what can be written, made, executed, or reached past the root.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use libc::{EACCES, ENOENT, EPERM, EROFS};

use crate::case::{Case, NOTHING, case};
use crate::sys::call;

/// include/uapi/linux/mount.h and the kernel's table; not in every libc.
const SYS_OPEN_TREE_ATTR: i64 = 467;
const OPEN_TREE_CLONE: i32 = 1;
const AT_FDCWD: i32 = libc::AT_FDCWD;

pub(crate) const CASES: &[Case] = &[
    case("mount-tmpfs", &[EPERM], || got(call!(libc::SYS_mount, c"x", c"/tmp", c"tmpfs", 0, 0))),
    case("mount-proc", &[EPERM], || got(call!(libc::SYS_mount, c"x", c"/tmp", c"proc", 0, 0))),
    case("mount-cgroup", &[EPERM], || got(call!(libc::SYS_mount, c"x", c"/tmp", c"cgroup2", 0, 0))),
    case("mount-bind", &[EPERM], || got(call!(libc::SYS_mount, c"/", c"/tmp", 0, 0x1000, 0))),
    // MS_REMOUNT|MS_BIND without MS_RDONLY.
    case("remount-root-writable", &[EPERM], || got(call!(libc::SYS_mount, 0, c"/", 0, 0x1020, 0))),
    case("remount-tmp-exec", &[EPERM], || got(call!(libc::SYS_mount, 0, c"/tmp", 0, 0x1020, 0))),
    case("umount-dev", &[EPERM], || got(call!(libc::SYS_umount2, c"/dev", 2))),
    case("umount-proc-mask", &[EPERM], || got(call!(libc::SYS_umount2, c"/proc/sys", 2))),
    case("fsopen", &[EPERM], || got(call!(libc::SYS_fsopen, c"tmpfs", 0))),
    case("fspick", &[EPERM], || got(call!(libc::SYS_fspick, AT_FDCWD, c"/", 0))),
    case("open-tree", &[EPERM], || got(call!(libc::SYS_open_tree, AT_FDCWD, c"/", OPEN_TREE_CLONE))),
    case("open-tree-attr", &[EPERM], || {
        got(call!(SYS_OPEN_TREE_ATTR, AT_FDCWD, c"/", OPEN_TREE_CLONE, [0_u8; 32].as_slice(), 32))
    }),
    case("move-mount", &[EPERM], || {
        got(call!(libc::SYS_move_mount, AT_FDCWD, c"/tmp", AT_FDCWD, c"/dev", 0))
    }),
    case("mount-setattr", &[EPERM], || {
        // attr_clr: MOUNT_ATTR_RDONLY.
        let mut attributes = [0; 32];
        attributes[8] = 1;
        got(call!(libc::SYS_mount_setattr, AT_FDCWD, c"/", 0, attributes.as_slice(), 32))
    }),
    case("pivot-root", &[EPERM], || got(call!(libc::SYS_pivot_root, c"/tmp", c"/tmp"))),
    case("chroot", &[EPERM], || got(call!(libc::SYS_chroot, c"/tmp"))),
    case("chroot-twice", &[EPERM], chroot_twice),
    case("above-the-root", &[NOTHING], above_the_root),
    case("write-root", &[EROFS, EACCES], || write("/escaped")),
    case("write-bin", &[EROFS, EACCES], || write("/bin/escaped")),
    case("write-dev", &[EROFS, EACCES], || write("/dev/escaped")),
    // CVE-2019-5736: the program that started us, through what we run.
    case("overwrite-self", &[EROFS, EACCES], || write("/proc/self/exe")),
    case("overwrite-init", &[ENOENT, EACCES], || write("/proc/1/exe")),
    case("chmod-own-program", &[EROFS, EPERM], || {
        fs::set_permissions("/bin/hostile", fs::Permissions::from_mode(0o6755))
            .map(|()| "set".into())
            .map_err(errno)
    }),
    case("set-user-id-files", &[NOTHING], || {
        let mut found = Vec::new();
        set_user_id(Path::new("/"), &mut found);
        if found.is_empty() { Err(NOTHING) } else { Ok(found.join(" ")) }
    }),
    case("exec-from-tmpfs", &[EACCES], || {
        let file = copy_of_self("/tmp/copy")?;
        drop(file);
        got(call!(libc::SYS_execve, c"/tmp/copy", 0, 0))
    }),
    case("exec-set-user-id-copy", &[EACCES], || {
        copy_of_self("/tmp/suid")?.set_permissions(fs::Permissions::from_mode(0o4755)).map_err(errno)?;
        got(call!(libc::SYS_execve, c"/tmp/suid", 0, 0))
    }),
    case("map-tmpfs-executable", &[EPERM], || {
        let file = copy_of_self("/tmp/mapped")?;
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
        got(call!(libc::SYS_mmap, 0, 4096, 5, 2, fd, 0))
    }),
    case("exec-memfd", &[EACCES, EPERM], || {
        let fd = call!(libc::SYS_memfd_create, c"x", 0)?;
        let program = fs::read("/proc/self/exe").map_err(errno)?;
        call!(libc::SYS_write, fd, program.as_slice(), program.len() as i64)?;
        // AT_EMPTY_PATH.
        got(call!(libc::SYS_execveat, fd, c"", 0, 0, 0x1000))
    }),
    // MFD_EXEC.
    case("exec-memfd-asked-for", &[EACCES], || got(call!(libc::SYS_memfd_create, c"x", 0x10))),
    case("open-by-handle", &[EPERM], || {
        // "Shocker": inode 2 of the file system that a descriptor is of.
        let root = call!(libc::SYS_open, c"/", libc::O_RDONLY)?;
        let mut handle = [0_u8; 16];
        handle[0] = 8;
        handle[4] = 1;
        handle[8] = 2;
        got(call!(libc::SYS_open_by_handle_at, root, handle.as_slice(), libc::O_RDONLY))
    }),
    case("name-to-handle", &[EPERM], || {
        let (mut handle, mut mount) = ([0_u8; 136], [0_u8; 8]);
        handle[0] = 128;
        got(call!(
            libc::SYS_name_to_handle_at,
            AT_FDCWD,
            c"/",
            handle.as_mut_slice(),
            mount.as_mut_slice(),
            0
        ))
    }),
    // CVE-2024-21626: a directory of somebody else's, left open.
    case("leaked-descriptors", &[NOTHING], leaked_descriptors),
    case("leaked-working-directory", &[NOTHING], || {
        let here = fs::read_link("/proc/self/cwd").map_err(errno)?;
        if here == Path::new("/") { Err(NOTHING) } else { Ok(here.display().to_string()) }
    }),
    case("core-dump", &[NOTHING], core_dump),
];

pub(crate) fn got(result: Result<i64, i32>) -> Result<String, i32> {
    result.map(|value| format!("it returned {value}"))
}

pub(crate) fn errno(error: io::Error) -> i32 {
    error.raw_os_error().unwrap_or(-1)
}

/// Opens for writing, as harmlessly as can be.
pub(crate) fn write(path: &str) -> Result<String, i32> {
    let made = OpenOptions::new().write(true).create(!path.starts_with("/proc")).mode(0o600).open(path);
    made.map(|_| format!("{path} is open for writing")).map_err(errno)
}

/// The classic: a directory outside the new root is still the working directory.
fn chroot_twice() -> Result<String, i32> {
    fs::create_dir("/tmp/jail").map_err(errno)?;
    let outside = call!(libc::SYS_open, c"/", libc::O_RDONLY)?;
    call!(libc::SYS_chroot, c"/tmp/jail")?;
    call!(libc::SYS_fchdir, outside)?;
    got(call!(libc::SYS_chroot, c"../../../../../../.."))
}

fn above_the_root() -> Result<String, i32> {
    let root = fs::metadata("/").map_err(errno)?;
    let mut path = String::from("/");
    for _ in 0..32 {
        path.push_str("../");
        let above = fs::metadata(&path).map_err(errno)?;
        if (above.dev(), above.ino()) != (root.dev(), root.ino()) {
            return Ok(format!("{path} is another directory"));
        }
    }
    // The machine's own root has these.
    for name in ["init", "services", "modules", "../services", "../../init"] {
        if Path::new("/").join(name).exists() {
            return Ok(format!("/{name} is there"));
        }
    }
    Err(NOTHING)
}

fn set_user_id(directory: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(meta) = entry.path().symlink_metadata() else { continue };
        if meta.is_dir() && !entry.path().starts_with("/proc") {
            set_user_id(&entry.path(), found);
        } else if meta.is_file() && meta.mode() & 0o6000 != 0 {
            found.push(entry.path().display().to_string());
        }
    }
}

fn copy_of_self(path: &str) -> Result<fs::File, i32> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o755)
        .open(path)
        .map_err(errno)?;
    // The head of a program: enough to be refused or not.
    let program = fs::read("/proc/self/exe").map_err(errno)?;
    file.write_all(&program[..program.len().min(64 << 10)]).map_err(errno)?;
    // Open for writing, it could not be executed for that reason alone.
    drop(file);
    fs::File::open(path).map_err(errno)
}

fn leaked_descriptors() -> Result<String, i32> {
    let mut leaked = Vec::new();
    for fd in 3..4096 {
        // Ours are the pipe to the parent and, of the parent, the other ends: of pipes, which lead nowhere.
        let link = fs::read_link(format!("/proc/self/fd/{fd}"));
        if let Ok(target) = link.map(|target| target.display().to_string())
            && !target.starts_with("pipe:")
        {
            leaked.push(format!("{fd} is {target}"));
        }
    }
    for fd in 0..3 {
        let target = fs::read_link(format!("/proc/self/fd/{fd}")).map_err(errno)?;
        let target = target.display().to_string();
        if target != "/dev/null" && !target.starts_with("pipe:") {
            leaked.push(format!("{fd} is {target}"));
        }
    }
    if leaked.is_empty() { Err(NOTHING) } else { Ok(leaked.join(", ")) }
}

fn core_dump() -> Result<String, i32> {
    // RLIM_INFINITY twice; whether that works is another case.
    _ = call!(libc::SYS_setrlimit, libc::RLIMIT_CORE as i64, [0xff_u8; 16].as_slice());
    let pid = crate::sys::fork()?;
    if pid == 0 {
        std::process::abort();
    }
    let status = crate::sys::wait(pid)?;
    if libc::WCOREDUMP(status) { Ok("a core was dumped".into()) } else { Err(NOTHING) }
}
