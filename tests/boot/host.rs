//! A host that does not do its part.

use crate::images::Image;
use crate::machine::{Machine, Options, qemu};

/// Nobody reads the status port, whose buffer is as small as the kernel makes one: the guest's frames have nowhere to go.
#[test]
fn that_never_reads_the_status_port_stops_nothing() {
    if !qemu() {
        return;
    }
    let machine = Machine::switch_on(Image::demo(), Options { status_read: false, ..Options::default() });
    machine.wait_healthy();
    let ended = machine.power_off();
    assert_eq!(ended.report.frames, 0, "{ended}");
    assert_eq!(ended.exit_status, 0, "{ended}");
    assert!(ended.console_says("powered off in order"), "{ended}");
}
