use std::os::unix::fs::{MetadataExt as _, symlink};

use tempfile::TempDir;

use super::*;

const OLD: &str = "# of the machine\nsearch corp.example\noptions ndots:2\nnameserver 192.0.2.53\nnameserver 2001:db8::53\n";

/// A directory with such a file in it.
fn machine(content: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("resolv.conf");
    fs::write(&path, content).unwrap();
    (dir, path)
}

fn names(dir: &TempDir) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn text_of(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

fn take(path: &Path) -> (ResolvConf, Vec<SocketAddr>) {
    ResolvConf::take(path, "casemate0", true).unwrap_or_else(|error| panic!("{error}"))
}

/// As if it had been killed: what is there stays, and the lock goes.
fn killed(taken: ResolvConf) {
    let mut taken = taken;
    taken.done = true;
}

#[test]
fn ours_stands_there_while_it_runs_and_the_old_one_comes_back_as_it_was() {
    let (dir, path) = machine(OLD);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    let (mut taken, resolvers) = take(&path);
    assert_eq!(resolvers, ["192.0.2.53:53".parse().unwrap(), "[2001:db8::53]:53".parse().unwrap()]);
    assert_eq!(text_of(taken.before()), OLD);
    assert!(text_of(&path).ends_with("\nnameserver 100.100.100.100\n"), "{}", text_of(&path));
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, MODE, "everybody asks names");

    assert_eq!(taken.set_search("t.internal").unwrap(), Back::Done);
    assert!(text_of(&path).ends_with("\nsearch t.internal\nnameserver 100.100.100.100\n"));
    assert_eq!(taken.set_search("t.internal").unwrap(), Back::Nothing);
    assert_eq!(names(&dir), ["resolv.conf", "resolv.conf.before-casemate-vpn"]);

    drop(taken);
    assert_eq!(names(&dir), ["resolv.conf"]);
    let found = fs::metadata(&path).unwrap();
    assert_eq!((text_of(&path).as_str(), found.ino(), found.mode() & 0o7777), (OLD, inode, 0o640));
}

#[test]
fn a_domain_that_changes_all_the_time_is_written_now_and_then() {
    let (_dir, path) = machine(OLD);
    let (mut taken, _) = take(&path);
    let begin = Instant::now();
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    assert_eq!(taken.follow("", begin).unwrap(), Back::Nothing);
    assert_eq!(taken.follow("a.internal", begin).unwrap(), Back::Done);
    let first = inode(&path);
    for (domain, later) in [("b.internal", 1), ("c.internal", 2), ("b.internal", 4)] {
        assert_eq!(taken.follow(domain, begin + Duration::from_secs(later)).unwrap(), Back::Nothing);
    }
    assert_eq!(inode(&path), first);
    assert!(text_of(&path).contains("\nsearch a.internal\n"));
    assert_eq!(taken.follow("b.internal", begin + PACE).unwrap(), Back::Done);
    assert!(text_of(&path).contains("\nsearch b.internal\n"));
    // What cannot be written is not tried, nor said, more often.
    fs::create_dir(beside(&path, NEXT)).unwrap();
    assert!(taken.follow("c.internal", begin + PACE * 2).is_err());
    assert_eq!(taken.follow("c.internal", begin + PACE * 2).unwrap(), Back::Nothing);
}

#[test]
fn what_a_killed_run_left_is_put_back_by_the_next_start() {
    let (dir, path) = machine(OLD);
    let (mut taken, _) = take(&path);
    taken.set_search("t.internal").unwrap();
    killed(taken);
    assert_eq!(names(&dir).len(), 2);
    // The next start takes it again, and finds the machine's resolvers, not us.
    let (taken, resolvers) = take(&path);
    assert_eq!(resolvers.len(), 2);
    killed(taken);
    // One that does not want it puts it back.
    assert_eq!(recover(&path).unwrap(), Back::Done);
    assert_eq!((text_of(&path).as_str(), names(&dir).len()), (OLD, 1));
    assert_eq!(recover(&path).unwrap(), Back::Nothing);

    // Killed before it took its place, and in the middle of another domain.
    let before = beside(&path, BEFORE);
    fs::write(&before, text::ours(&before, None)).unwrap();
    fs::write(beside(&path, NEXT), "half").unwrap();
    assert_eq!(recover(&path).unwrap(), Back::Nothing);
    assert_eq!((text_of(&path).as_str(), names(&dir).len()), (OLD, 1));
}

#[test]
fn a_run_that_goes_on_is_not_taken_for_a_killed_one() {
    let (_dir, path) = machine(OLD);
    let (mut first, _) = take(&path);
    for _ in 0..2 {
        assert_eq!(recover(&path).unwrap(), Back::Taken);
        let refused = ResolvConf::take(&path, "casemate1", true).unwrap_err();
        assert!(matches!(refused, Refusal::Taken(_)), "{refused}");
        assert_eq!(text_of(first.before()), OLD);
        // Also with another file.
        first.set_search("t.internal").unwrap();
    }
}

#[test]
fn what_somebody_changed_is_left() {
    let (dir, path) = machine(OLD);
    let others = "nameserver 198.51.100.1\n";
    for rename in [false, true] {
        fs::write(&path, OLD).unwrap();
        let (mut taken, _) = take(&path);
        let target = if rename { dir.path().join("theirs") } else { path.clone() };
        fs::write(&target, others).unwrap();
        fs::rename(&target, &path).unwrap();
        assert_eq!(taken.set_search("t.internal").unwrap(), Back::Changed);
        assert_eq!(taken.put_back().unwrap(), Back::Changed);
        drop(taken);
        assert_eq!(text_of(&path), others);
        assert_eq!(text_of(&beside(&path, BEFORE)), OLD, "whoever wants it finds it");
        assert_eq!(recover(&path).unwrap(), Back::Changed);
        // From then on it is the machine's.
        let (taken, resolvers) = take(&path);
        assert_eq!(resolvers, ["198.51.100.1:53".parse().unwrap()]);
        drop(taken);
        assert_eq!((text_of(&path).as_str(), names(&dir).len()), (others, 1));
    }
    // One line more is a change, too; and then it would be a loop.
    let (taken, _) = take(&path);
    fs::write(&path, format!("{}options edns0\n", text_of(&path))).unwrap();
    drop(taken);
    let refused = ResolvConf::take(&path, "casemate0", true).unwrap_err();
    assert!(matches!(refused, Refusal::Loop { .. }), "{refused}");
    assert!(refused.to_string().contains(".before-casemate-vpn"), "{refused}");
    assert_eq!(text_of(&beside(&path, BEFORE)), others, "what may help stays");
}

#[test]
fn a_link_is_a_link_again_afterwards() {
    let (dir, path) = machine("");
    fs::write(dir.path().join("network-manager"), OLD).unwrap();
    fs::remove_file(&path).unwrap();
    symlink("network-manager", &path).unwrap();
    let (taken, resolvers) = take(&path);
    assert_eq!(resolvers.len(), 2);
    assert!(fs::symlink_metadata(&path).unwrap().is_file());
    assert_eq!(text_of(&dir.path().join("network-manager")), OLD);
    killed(taken);
    // Its target may not be there yet when the machine starts.
    fs::remove_file(dir.path().join("network-manager")).unwrap();
    assert_eq!(recover(&path).unwrap(), Back::Done);
    assert_eq!(fs::read_link(&path).unwrap(), Path::new("network-manager"));
}

#[test]
fn systemd_resolveds_file_is_left_with_the_line_that_does_it() {
    let (dir, path) = machine("");
    fs::create_dir_all(dir.path().join("systemd/resolve")).unwrap();
    let stub = dir.path().join("systemd/resolve/stub-resolv.conf");
    fs::remove_file(&path).unwrap();
    symlink("systemd/resolve/stub-resolv.conf", &path).unwrap();
    for there in [false, true] {
        if there {
            fs::write(&stub, OLD).unwrap();
        }
        let refused = ResolvConf::take(&path, "tun7", false).unwrap_err().to_string();
        assert!(refused.contains("resolvectl dns tun7 100.100.100.100"), "{refused}");
        assert!(!refused.contains('\n'), "{refused}");
    }
    // A copy of it: it reads a file that is not its own.
    let (dir, path) = machine("nameserver 127.0.0.53\noptions edns0\n");
    let refused = ResolvConf::take(&path, "tun7", false).unwrap_err();
    assert!(matches!(refused, Refusal::Resolved { .. }), "{refused}");
    assert_eq!(names(&dir), ["resolv.conf"]);
}

#[test]
fn nobody_is_asked_who_would_ask_us() {
    for (content, expected) in [
        ("nameserver 100.100.100.100\n", "names the node's own address already"),
        ("nameserver 192.0.2.1\nnameserver fd7a:115c:a1e0::53\n", "names the node's own address already"),
        ("nameserver ::ffff:100.100.100.100\n", "names the node's own address already"),
        ("nameserver 127.0.0.1\n", "names 127.0.0.1, which may ask whom this file names"),
        ("nameserver ::1\n", "names ::1, which"),
        ("nameserver 0.0.0.0\n", "names 0.0.0.0, which"),
        // Also where nobody is to be asked other names: servers' names are.
        ("", "resolv.conf names no resolver: say dns.resolvers"),
        ("#nameserver 192.0.2.1\nnameservers 192.0.2.1\nnameserver fe80::1%eth0\n", "names no resolver"),
    ] {
        let (dir, path) = machine(content);
        let refused = ResolvConf::take(&path, "casemate0", true).unwrap_err().to_string();
        assert!(refused.contains(expected) && !refused.contains("internal_only"), "{content}: {refused}");
        assert_eq!((text_of(&path).as_str(), names(&dir).len()), (content, 1));
    }
    // Beside another it is not asked; where others are named in the configuration, nobody of the file is.
    for (content, needed, asked) in [
        ("nameserver 127.0.0.1\nnameserver 192.0.2.1\n", true, vec!["192.0.2.1:53"]),
        ("nameserver 127.0.0.11\n", true, vec!["127.0.0.11:53"]),
        (
            "nameserver 192.0.2.1\nnameserver 192.0.2.2 # two\n nameserver 192.0.2.3\nnameserver 192.0.2.4\n",
            true,
            vec!["192.0.2.1:53", "192.0.2.2:53", "192.0.2.3:53"],
        ),
        ("nameserver 127.0.0.1\n", false, vec![]),
        ("", false, vec![]),
        ("nameserver 192.0.2.1\n", false, vec![]),
    ] {
        let (_dir, path) = machine(content);
        let (_taken, resolvers) = ResolvConf::take(&path, "casemate0", needed).unwrap();
        let resolvers: Vec<_> = resolvers.iter().map(ToString::to_string).collect();
        assert_eq!(resolvers, asked, "{content}");
    }
}

#[test]
fn what_cannot_be_taken_is_said_and_nothing_is_left() {
    let (dir, path) = machine(OLD);
    fs::remove_file(&path).unwrap();
    assert!(matches!(ResolvConf::take(&path, "casemate0", true), Err(Refusal::Missing(_))));
    fs::write(&path, vec![b'#'; usize::try_from(MAX_LEN).unwrap() + 1]).unwrap();
    assert!(matches!(ResolvConf::take(&path, "casemate0", true), Err(Refusal::File { .. })));
    fs::write(&path, OLD).unwrap();
    let failing = |_: &Path, _: &Path| Err(io::Error::from_raw_os_error(libc::EROFS));
    let refused = ResolvConf::take_with(&path, "casemate0", true, failing).unwrap_err();
    assert!(matches!(refused, Refusal::File { .. }), "{refused}");
    assert_eq!((text_of(&path).as_str(), names(&dir).len()), (OLD, 1));
}

#[test]
fn what_a_link_leads_to_is_never_overwritten() {
    let (dir, path) = machine(OLD);
    let target = dir.path().join("of-another-program");
    fs::rename(&path, &target).unwrap();
    symlink(&target, &path).unwrap();
    // A file system without RENAME_EXCHANGE.
    let unknown = |_: &Path, _: &Path| Err(io::Error::from_raw_os_error(libc::EINVAL));
    let refused = ResolvConf::take_with(&path, "casemate0", true, unknown).unwrap_err();
    assert!(matches!(refused, Refusal::File { .. }), "{refused}");
    assert_eq!(text_of(&target), OLD);
    assert_eq!(fs::read_link(&path).unwrap(), target);
    assert_eq!(names(&dir), ["of-another-program", "resolv.conf"]);
}

#[test]
fn what_runs_keeps_what_it_is_just_writing() {
    let (_dir, path) = machine(OLD);
    let (taken, _) = take(&path);
    let next = beside(&path, NEXT);
    fs::write(&next, "half").unwrap();
    assert_eq!(recover(&path).unwrap(), Back::Taken);
    assert!(next.exists());
    drop(taken);
}

/// A mount point, as in a container.
fn stuck(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::Error::from_raw_os_error(libc::EBUSY))
}

#[test]
fn a_file_that_keeps_its_place_is_written_in_it() {
    let (dir, path) = machine(OLD);
    let inode = fs::metadata(&path).unwrap().ino();
    let (mut taken, resolvers) = ResolvConf::take_with(&path, "casemate0", true, stuck).unwrap();
    assert_eq!(resolvers.len(), 2);
    assert!(text_of(&path).ends_with("\nnameserver 100.100.100.100\n"), "{}", text_of(&path));
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    assert_eq!(text_of(taken.before()), OLD);
    for domain in ["a.rather.long.name.of.a.network.internal", "t.internal"] {
        assert_eq!(taken.set_search(domain).unwrap(), Back::Done);
        assert!(text_of(&path).ends_with(&format!("\nsearch {domain}\nnameserver 100.100.100.100\n")));
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
        assert_eq!(recover(&path).unwrap(), Back::Taken, "it is locked as well");
    }
    killed(taken);
    assert_eq!(recover(&path).unwrap(), Back::Done);
    assert_eq!((text_of(&path).as_str(), names(&dir).len()), (OLD, 1));
}

/// The same with a real mount point, which needs root: a thread of its own has mounts of its own.
#[test]
fn a_mount_point_is_written_in_place_and_put_back() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: mounting needs root");
        return;
    }
    let (dir, path) = machine("");
    let source = dir.path().join("source");
    fs::write(&source, OLD).unwrap();
    std::thread::spawn(move || {
        use nix::mount::{MsFlags, mount};
        use nix::sched::{CloneFlags, unshare};
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        mount(Some(&source), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        for is_killed in [false, true] {
            let (mut taken, resolvers) = take(&path);
            assert!(taken.in_place && resolvers.len() == 2);
            taken.set_search("t.internal").unwrap();
            assert!(text_of(&source).contains("search t.internal\nnameserver 100.100.100.100\n"));
            match is_killed {
                false => drop(taken),
                true => {
                    killed(taken);
                    assert_eq!(recover(&path).unwrap(), Back::Done);
                }
            }
            assert_eq!(text_of(&source), OLD);
            assert!(!beside(&path, BEFORE).exists());
        }
    })
    .join()
    .unwrap();
    drop(dir);
}
