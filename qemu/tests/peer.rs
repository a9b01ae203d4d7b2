//! A real QEMU 11.1 from trixie-backports judges the TDX form: it takes every option and stops only where it asks for TDX
//! hardware. `peer/fetch-qemu` gets it, unpacked into a cache, never installed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::num::NonZeroU16;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use casemate_measure::{ComposeHash, MrConfigId};
use casemate_qemu::argv::{BootFiles, argv};
use casemate_qemu::io::{probe, run};
use casemate_qemu::rundir::RunDir;
use casemate_qemu::shape::{Network, Platform, QUOTE_PORT, TdxLaunch, VmShape};
use serde_json::Value;

/// What QEMU says where it wants KVM for the private memory of the TD.
const WANTS_KVM: &str = "cannot set up private guest memory for tdx-guest: KVM required";

/// QEMU's program; `None`, said loudly, where it cannot be had.
#[expect(clippy::expect_used, reason = "test set-up")]
fn qemu_11(test: &str) -> Option<&'static str> {
    static PROGRAM: OnceLock<Result<String, String>> = OnceLock::new();
    let fetch = || {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peer/fetch-qemu");
        let output = Command::new("bash").arg(script).arg("11").output().expect("bash starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stderr).replace('\n', "; "))
        }
    };
    match PROGRAM.get_or_init(fetch) {
        Ok(program) => Some(program),
        Err(why) => {
            eprintln!("SKIPPED: {test}: QEMU 11.1 cannot be fetched: {why}");
            None
        }
    }
}

struct Bench {
    dir: tempfile::TempDir,
    args: Vec<String>,
}

impl Bench {
    /// The TDX form with files that exist, and sockets in a directory of its own.
    #[expect(clippy::unwrap_used, reason = "test set-up")]
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: Vec<u8>| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let files = BootFiles {
            kernel: file("bzImage", kernel()),
            initramfs: file("initramfs.cpio.zst", vec![0]),
            firmware: file("ovmf.fd", vec![0; 1 << 16]),
            cmdline: "panic=-1".into(),
        };
        let mrconfigid = MrConfigId::v1(&ComposeHash::of(b"{}"));
        let shape = VmShape {
            platform: Platform::Tdx(TdxLaunch { mrconfigid, quote_port: QUOTE_PORT }),
            memory_mib: 512,
            cpus: NonZeroU16::MIN,
            dev: None,
            network: Network::User(vec!["127.0.0.1:0:443".parse().unwrap()]),
        };
        let run_dir = RunDir::existing(dir.path()).unwrap();
        run_dir.write_share(&[0; 4096]).unwrap();
        let args = argv(&shape, &files, &run::wiring(&run_dir, Some(dir.path().join("frames.pcap")), true));
        Self { dir, args }
    }

    /// The same on a host without KVM.
    fn under_tcg(mut self) -> Self {
        self.change("-accel", "tcg");
        self.change("-cpu", "max");
        self
    }

    #[expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "test set-up")]
    fn change(&mut self, option: &str, value: &str) {
        let at = self.args.iter().position(|arg| arg == option).unwrap();
        self.args[at + 1] = value.into();
    }

    #[expect(clippy::unwrap_used, reason = "test set-up")]
    fn object(&self) -> Value {
        let object = self.args.iter().find(|arg| arg.contains("tdx-guest")).unwrap();
        serde_json::from_str(object).unwrap()
    }

    /// Everything that QEMU says until it gives up, within 20 seconds.
    #[expect(clippy::unwrap_used, reason = "test set-up")]
    fn refusal(&self, program: &str) -> String {
        let log = self.dir.path().join("refusal.log");
        let mut child = Guard(
            Command::new(program)
                .args(&self.args)
                .stdin(Stdio::null())
                .stderr(std::fs::File::create(&log).unwrap())
                .spawn()
                .unwrap(),
        );
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = child.0.try_wait().unwrap() {
                break status;
            }
            assert!(begin.elapsed() < Duration::from_secs(20), "QEMU accepted what it should refuse");
            std::thread::sleep(Duration::from_millis(20));
        };
        assert!(!status.success());
        std::fs::read_to_string(log).unwrap()
    }
}

/// The setup header of a kernel that takes a RAM disk (Linux `Documentation/arch/x86/boot.rst`), and no code.
fn kernel() -> Vec<u8> {
    let mut image = vec![0; 16 << 10];
    let fields: [(usize, &[u8]); 5] = [
        (0x1f1, &[4]),
        (0x202, b"HdrS"),
        (0x206, &[0x0f, 0x02]),
        (0x211, &[1]),
        (0x22c, &[0xff, 0xff, 0xff, 0x7f]),
    ];
    for (offset, bytes) in fields {
        image.splice(offset..offset + bytes.len(), bytes.iter().copied());
    }
    image
}

struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn peer_qemu_knows_the_tdx_object() {
    let Some(program) = qemu_11("peer_qemu_knows_the_tdx_object") else { return };
    let qemu = probe::facts(program).qemu.unwrap();
    assert!(qemu.version >= (11, 1), "{qemu:?}");
    assert!(qemu.tdx_guest);
}

#[test]
fn peer_qemu_takes_the_tdx_form_and_wants_only_hardware() {
    let Some(program) = qemu_11("peer_qemu_takes_the_tdx_form_and_wants_only_hardware") else { return };
    let said = Bench::new().under_tcg().refusal(program);
    assert_eq!(said.trim().lines().collect::<Vec<_>>(), [format!("qemu-system-x86_64: {WANTS_KVM}")]);
    if probe::facts(program).tdx_obstacle().is_some() {
        let said = Bench::new().refusal(program);
        let of_the_host = ["vm-type TDX not supported by KVM", "Could not access KVM kernel module"];
        assert!(of_the_host.iter().any(|words| said.contains(words)), "{said}");
    }
}

#[test]
fn peer_qemu_refuses_each_property_of_the_object_misspelt() {
    let Some(program) = qemu_11("peer_qemu_refuses_each_property_of_the_object_misspelt") else { return };
    let object = Bench::new().object();
    let mut names: Vec<_> = object
        .as_object()
        .unwrap()
        .keys()
        .filter(|n| !matches!(n.as_str(), "id" | "qom-type"))
        .cloned()
        .collect();
    names.sort();
    assert_eq!(names, ["mrconfigid", "quote-generation-socket", "sept-ve-disable"]);
    for name in names {
        let mut bench = Bench::new().under_tcg();
        let mut wrong = object.clone();
        let fields = wrong.as_object_mut().unwrap();
        let value = fields.remove(&name).unwrap();
        fields.insert(format!("{name}x"), value);
        bench.change("-object", &wrong.to_string());
        let said = bench.refusal(program);
        assert!(said.contains(&format!("'{name}x' is unexpected")), "{said}");
    }
    let mut bench = Bench::new().under_tcg();
    bench.change("-machine", "q35,kernel-irqchip=split,confidential-guest-support=tdx,hpett=off,smm=off");
    assert!(bench.refusal(program).contains("hpett"), "an unknown machine option must be refused");
}

/// QEMU stops at the missing hardware before it makes devices, so they are judged without the TD: same line else.
#[test]
fn peer_qemu_makes_the_devices_of_the_tdx_form_in_their_slots() {
    let test = "peer_qemu_makes_the_devices_of_the_tdx_form_in_their_slots";
    let Some(program) = qemu_11(test) else { return };
    let mut bench = Bench::new().under_tcg();
    bench.change("-machine", "q35,kernel-irqchip=split,hpet=off,smm=off");
    let at = bench.args.iter().position(|arg| arg.contains("tdx-guest")).unwrap();
    bench.args.drain(at - 1..=at);
    let log = bench.dir.path().join("log");
    let stderr = std::fs::File::create(&log).unwrap();
    let _guard = Guard(Command::new(program).args(&bench.args).arg("-S").stderr(stderr).spawn().unwrap());
    let answer = query_pci(&bench.dir.path().join("qmp.sock"), &log);
    let devices = answer.pointer("/return/0/devices").unwrap().as_array().unwrap();
    let found: Vec<(u64, u64, u64)> = devices
        .iter()
        .map(|device| {
            let number = |pointer: &str| device.pointer(pointer).unwrap().as_u64().unwrap();
            (number("/slot"), number("/id/vendor"), number("/id/device"))
        })
        .filter(|(slot, _, _)| *slot != 0 && *slot != 31)
        .collect();
    // Modern virtio device ids: 0x1040 + 3 console, + 1 network, + 2 block (virtio 1.2, section 4.1.2.1).
    assert_eq!(found, [(2, 0x1af4, 0x1043), (3, 0x1af4, 0x1041), (4, 0x1af4, 0x1042)]);
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "", "not a warning");
}

#[expect(clippy::unwrap_used, reason = "test helper")]
fn query_pci(socket: &PathBuf, log: &PathBuf) -> Value {
    let begin = Instant::now();
    let stream = loop {
        match UnixStream::connect(socket) {
            Ok(stream) => break stream,
            Err(error) => {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                assert!(begin.elapsed() < Duration::from_secs(20), "no monitor: {error}: {said}");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    };
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut writer = stream;
    lines.next().unwrap().unwrap();
    let mut answer = Value::Null;
    for command in ["qmp_capabilities", "query-pci"] {
        writeln!(writer, "{{\"execute\":\"{command}\"}}").unwrap();
        answer = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    }
    answer
}
