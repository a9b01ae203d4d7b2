//! The kernel's command line: measured into RTMR2, so it is part of the image and nothing else may add to it.

use casemate_measure::image::Flavor;

/// Both flavours (`images.md` 2.1; names as in `Documentation/admin-guide/kernel-parameters.txt` of the pinned kernel).
const COMMON: &[&str] = &[
    // A panic ends the machine: the VM is started with -no-reboot.
    "panic=-1",
    "oops=panic",
    // RDRAND comes from the TD's own CPU; the boot loader's seed comes from the host.
    "random.trust_cpu=on",
    "random.trust_bootloader=off",
    // The host's clock page is not read; the TSC of a TD is the TDX module's.
    "no-kvmclock",
    "tsc=reliable",
    // The host may inject machine checks.
    "mce=off",
    // Only signed modules; no /dev/mem, kexec, kprobes, debugfs (the Debian configuration allows them).
    "lockdown=confidentiality",
    "init_on_alloc=1",
    "init_on_free=1",
    "page_alloc.shuffle=1",
    "slab_nomerge",
    "vsyscall=none",
    "ia32_emulation=0",
    "debugfs=off",
    // Firmware's run-time services are the host's code path in a VM; nothing here needs them.
    "efi=noruntime",
];

/// The host may read the serial console: the development image shows warnings, errors and what PID 1 prints.
const DEV: &[&str] = &["console=ttyS0", "quiet"];

/// No console; and no serial port for one.
const PROD: &[&str] = &["quiet", "loglevel=0", "printk.devkmsg=off", "8250.nr_uarts=0"];

/// The whole line, without an end of line.
pub fn of(flavor: Flavor) -> String {
    let own = match flavor {
        Flavor::Dev => DEV,
        Flavor::Prod => PROD,
    };
    [own, COMMON].concat().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn production_has_no_console() {
        assert!(of(Flavor::Dev).starts_with("console=ttyS0 "));
        assert!(!of(Flavor::Prod).contains("console="));
    }

    #[test]
    fn it_is_one_line_that_the_kernel_takes_whole() {
        for flavor in [Flavor::Dev, Flavor::Prod] {
            let line = of(flavor);
            // COMMAND_LINE_SIZE of x86 is 2048 with the NUL; OVMF appends ` initrd=initrd`.
            assert!(line.len() + " initrd=initrd".len() < 2048);
            assert!(line.bytes().all(|b| b.is_ascii_graphic() || b == b' '));
            let mut names: Vec<&str> = line.split(' ').map(|w| w.split('=').next().unwrap()).collect();
            names.sort_unstable();
            let count = names.len();
            names.dedup();
            assert_eq!(names.len(), count, "a parameter given twice");
        }
    }
}
