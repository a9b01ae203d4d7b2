//! The ways out.

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use casemate_measure::status::{Reason, Stage};

use crate::status::Port;
use crate::sys;

/// The one status port; the panic hook and the watchdog need it too.
static PORT: Mutex<Port> = Mutex::new(Port::new());
/// The current stage's code, for the panic hook.
static STAGE: AtomicU8 = AtomicU8::new(Stage::Early.code());

/// Tells the host.
pub(super) fn tell(stage: Stage, reason: Reason, detail: u64, digest: [u8; 32]) {
    STAGE.store(stage.code(), Ordering::Relaxed);
    if let Ok(mut port) = PORT.lock() {
        port.send(stage, reason, detail, digest, uptime());
    }
}

/// Tries a frame that found no room again.
pub(super) fn retell() {
    if let Ok(mut port) = PORT.lock() {
        port.retry();
    }
}

/// What the port has counted; `None` while another thread has it.
pub(super) fn port_counts() -> Option<crate::status::PortCounts> {
    PORT.try_lock().ok().map(|port| port.counts())
}

/// Tells the host why, and powers off.
pub(super) fn off_because(stage: Stage, reason: Reason, detail: u64, digest: [u8; 32]) -> ! {
    /// How long the last frame may wait for a host that reads slowly: 20 times 10 ms.
    const TRIES: u32 = 20;
    // A boot that failed at its very start has no port yet.
    super::mounts::mount_for_the_last_word();
    // A thread that holds the port may be the one that hangs or panicked: the frame is given up then, the power-off is not.
    let mut sent = false;
    for _ in 0..TRIES {
        if let Ok(mut port) = PORT.try_lock() {
            if sent {
                port.retry();
            } else {
                sent = true;
                port.send(stage, reason, detail, digest, uptime());
            }
            if !port.is_waiting() {
                break;
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    sys::power_off()
}

/// Any panic powers off. Its text is for the development console; the standard library's own hook, which would write to
/// standard error, is gone.
pub(super) fn install_panic_hook() {
    on_panic(|stage| off_because(stage, Reason::Panic, 0, [0; 32]));
}

fn on_panic(end: impl Fn(Stage) + Send + Sync + 'static) {
    std::panic::set_hook(Box::new(move |info| {
        crate::log::print("casemate", &format!("panic: {info}"));
        end(Stage::from_code(STAGE.load(Ordering::Relaxed)).unwrap_or(Stage::Early));
    }));
}

/// Since the kernel started.
pub(super) fn uptime() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

/// The ACPI power buttons.
pub(super) fn buttons() -> Vec<File> {
    let names = fs::read_dir("/sys/class/input").into_iter().flatten().flatten();
    names
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("event"))
        .filter(|entry| {
            fs::read_to_string(entry.path().join("device/name"))
                .is_ok_and(|name| name.trim_end() == "Power Button")
        })
        .filter_map(|entry| {
            let path = std::path::Path::new("/dev/input").join(entry.file_name());
            OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()
        })
        .collect()
}

/// Whether a readable button was pressed. `struct input_event` on x86-64 is 24 bytes: time 16, type u16, code u16, value s32
/// (include/uapi/linux/input.h); a press is EV_KEY 1, KEY_POWER 116, value 1.
pub(super) fn pressed(button: &mut File) -> bool {
    let mut event = [0_u8; 24];
    let mut pressed = false;
    while matches!(button.read(&mut event), Ok(24)) {
        pressed |= matches!(event, [.., 1, 0, 116, 0, 1, 0, 0, 0]);
    }
    pressed
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek as _, Write as _};
    use std::process::Command;

    /// In this variable a process of [`a_panic_says_nothing_in_production`] finds that it is the one to panic.
    const PANICS: &str = "CASEMATE_TEST_PANICS";

    /// Not as PID 1, whose way out is a power-off; `tests/boot` shows that way. Here: what of a panic reaches the outputs.
    #[test]
    fn a_panic_says_nothing_in_production() {
        if std::env::var_os(PANICS).is_some() {
            STAGE.store(Stage::Links.code(), Ordering::Relaxed);
            on_panic(|stage| {
                println!("ends at {}", stage.words());
                std::process::abort();
            });
            panic!("a secret word");
        }
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", "--nocapture", "guest::power::tests::a_panic_says_nothing_in_production"]);
        let output = again.env(PANICS, "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!output.status.success() && said.contains("ends at links"), "{said}");
        assert_eq!(said.contains("a secret word"), cfg!(feature = "dev"), "{said}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    }

    #[test]
    fn a_press_is_told_from_a_release_and_another_key() {
        let mut file = tempfile::tempfile().unwrap();
        let event = |code: u8, value: u8| {
            let mut bytes = [0xff_u8; 24];
            bytes[16..].copy_from_slice(&[1, 0, code, 0, value, 0, 0, 0]);
            bytes
        };
        for (code, value, expected) in [(116, 0, false), (115, 1, false), (116, 1, true)] {
            file.set_len(0).unwrap();
            file.rewind().unwrap();
            file.write_all(&event(code, value)).unwrap();
            file.rewind().unwrap();
            assert_eq!(pressed(&mut file), expected, "{code} {value}");
        }
    }
}
