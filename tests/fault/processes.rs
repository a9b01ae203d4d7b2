//! The machines of the table: what is ordered to break in them breaks.

use std::sync::LazyLock;

use casemate_image::io::compile::Compiler;
use casemate_image::progress::Progress;
use casemate_measure::image::Flavor;
use casemate_measure::status::{Frame, Reason};

use crate::images::{self, Image};
use crate::judge::{Expected, judge};
use crate::machine::{Ended, Machine, Options, qemu};
use crate::table::{PROCESSES, Row};

/// `probe` does nothing: what is said of it would be about nobody.
const DOCUMENT: &str = r#"{
  "manifest_version": 2, "name": "faults", "runner": "casemate", "key_provider": "none", "secure_time": false,
  "casemate": {
    "version": 1, "role": "node", "node": { "name": "faults", "type": "test" },
    "network": { "mode": "dhcp" }, "vpn": { "mode": "direct" }, "egress": { "mode": "internal-only" },
    "mesh": {
      "backends": [{ "listen": 443, "kind": "http", "to": "web:8000", "allow": ["any"] }],
      "verify": "quote", "images": ["same"]
    },
    "services": [
      {
        "name": "web", "rootfs": "web", "uid": 1000, "ports": [8000], "restart": "always",
        "exec": ["/bin/httpd", "-f", "-p", "8000", "-h", "/www"]
      },
      { "name": "probe", "rootfs": "web", "uid": 1001, "restart": "always", "exec": ["/bin/sleep", "1000000"] },
      { "name": "crash", "rootfs": "web", "uid": 1002, "restart": "always", "exec": ["/bin/false"] },
      {
        "name": "hungry", "rootfs": "web", "uid": 1003, "restart": "always", "memory_max": "8M",
        "exec": ["/bin/busybox", "tail", "/dev/zero"]
      }
    ]
  }
}"#;

/// Guest time passes as fast as QEMU can count instructions, and at once where the guest waits.
const FAST: &str = "-icount shift=3,sleep=off";

/// With an init that breaks on order.
pub(crate) fn image() -> Image {
    static IMAGE: LazyLock<Image> = LazyLock::new(|| {
        let (flavor, danger, epoch) = (Flavor::Dev, Some("danger-faults"), images::lock().epoch);
        let compiler = Compiler { workspace: images::workspace(), flavor, danger, jobs: None, epoch };
        let init = compiler.compile(&Progress::silent()).unwrap();
        let document = images::place("faults.app-compose.json");
        std::fs::write(&document, DOCUMENT).unwrap();
        Image::build_with("faults", flavor, Some(&document), &[("web", images::busybox())], &init)
    });
    IMAGE.clone()
}

/// Orders for the guest, as QEMU is told them.
pub(crate) fn orders<'a>(faults: impl Iterator<Item = &'a str>) -> String {
    faults.fold(String::new(), |all, fault| format!("{all} -smbios type=11,value=casemate.fault={fault}"))
}

fn run(row: &Row) -> Ended {
    let faults = row.faults.iter().map(|(fault, _)| *fault).filter(|fault| !fault.starts_with('('));
    let extra = format!("{FAST}{}", orders(faults));
    let machine = Machine::switch_on(&image(), Options { extra: extra.leak(), ..Options::default() });
    if matches!(row.faults, [(_, Expected::Off(..))]) {
        return if row.runs == 0 { machine.wait_end() } else { machine.wait_for_its_end() };
    }
    machine.wait_ready();
    let ready = |frames: &[Frame]| frames.iter().find(|frame| frame.reason == Reason::Ready).copied();
    machine.wait("time to pass", || {
        let frames = machine.all_frames();
        let since = ready(&frames)?.uptime_ms + row.runs * 1000;
        (frames.last()?.uptime_ms >= since).then_some(())
    });
    machine.power_off()
}

#[test]
fn each_ends_in_its_documented_rule() {
    if !qemu() {
        return;
    }
    let mut wrong = Vec::new();
    for row in PROCESSES {
        let ended = run(row);
        let mut all_good = true;
        for (fault, expected) in row.faults {
            match judge(fault, *expected, &ended.all_frames) {
                Ok(line) => println!("{line}"),
                Err(line) => {
                    println!("{line}: NOT SO");
                    wrong.push(line);
                    all_good = false;
                }
            }
            // PID 1 does not come to say so of itself.
            let silent = fault.starts_with('(') || fault.contains(":pid1@");
            let carried_out = silent || ended.console_says(&format!("fault {fault} carried out"));
            if !carried_out {
                wrong.push(format!("fault {fault}: it was not carried out"));
            }
            all_good &= carried_out;
        }
        let off = matches!(row.faults, [(_, Expected::Off(..))]);
        if !off && ended.exit_status != 0 {
            wrong.push(format!("{}: expected an orderly end: {}", row.machine, ended.exit_status));
            all_good = false;
        }
        if !all_good {
            println!("{}: {ended}\n{:#?}", row.machine, ended.all_frames);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
