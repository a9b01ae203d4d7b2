//! Time that jumps: the machine stands still, and the host's time goes on, or stands still with it.

use std::time::Duration;

use casemate_measure::status::Reason;

use crate::console::process;
use crate::machine::{Machine, Options, qemu};
use crate::processes::image;

/// More than silence (30 s) and PID 1's own loop (60 s) may take.
const PAUSE: Duration = Duration::from_secs(75);

#[test]
fn a_machine_that_stood_still_goes_on() {
    if !qemu() {
        return;
    }
    let machine = Machine::switch_on(&image(), Options { company: true, ..Options::default() });
    machine.wait_ready();
    let first = machine.wait_status("everybody runs", |status| process(status, "web")["pid"] != 0);
    let alive = || machine.all_frames().into_iter().rfind(|frame| frame.reason == Reason::Alive);

    // The monitor stops the machine's clocks with the machine: for it no time passes.
    let before = machine.wait("a sign of life", &alive);
    machine.monitor("{\"execute\":\"stop\"}\n");
    std::thread::sleep(Duration::from_secs(15));
    machine.monitor("{\"execute\":\"cont\"}\n");
    let after = machine
        .wait("a sign of life after the pause", || alive().filter(|frame| frame.sequence > before.sequence));
    println!("fault stopped and resumed by the monitor: expected Alive, found {:?}", after.reason);

    // QEMU itself is stopped: for the machine all of that time passes at once.
    machine.signal("STOP");
    std::thread::sleep(PAUSE);
    machine.signal("CONT");
    let jump = |frames: &[u64]| frames.windows(2).map(|two| two[1] - two[0]).max().unwrap_or(0);
    let uptimes = || machine.all_frames().iter().map(|frame| frame.uptime_ms).collect::<Vec<_>>();
    machine.wait("frames after the jump", || {
        let uptimes = uptimes();
        // Two more, so that what would follow from it has followed.
        (jump(&uptimes[..uptimes.len() - 2]) >= u64::try_from(PAUSE.as_millis()).unwrap() / 2).then_some(())
    });
    println!("fault the clock jumps by {} s: expected Alive, found Alive", jump(&uptimes()) / 1000);

    let later = machine.wait_status("a status document", |_| true);
    for name in ["agent", "mesh", "dhcp", "web", "probe"] {
        let (before, after) = (process(&first, name), process(&later, name));
        assert_eq!(
            (&after["pid"], &after["restarts"]),
            (&before["pid"], &before["restarts"]),
            "{name}: {later}"
        );
    }
    assert_eq!(later["egress"]["locked"], true, "{later}");
    assert_eq!(later["time"]["source"], "host (unauthenticated)", "{later}");
    machine.wait_healthy();
    let ended = machine.power_off();
    ended.assert_orderly();
    let hung = ended.all_frames.iter().any(|frame| frame.reason == Reason::Hung);
    assert!(!hung, "{ended}");
}
