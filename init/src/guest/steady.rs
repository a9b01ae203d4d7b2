//! After the boot: watch, restart, renew, report, and go down in order.

use std::path::Path;
use std::time::Duration;

use casemate_measure::status::{Reason, Stage};

use super::{Guest, lock, memory, power};
use crate::boot::Measured;
use crate::status;
use crate::supervise::STOP_GRACE;

/// How often counters are read and the status document is renewed.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// How often the status document's memory figures are renewed: walking every mapping of a process takes its time.
const MEASURE_EVERY: Duration = Duration::from_secs(10);
/// How often the host is told that PID 1's loop turns.
const ALIVE_EVERY: Duration = Duration::from_secs(10);
/// How often it is looked whether the services listen.
const PORTS_EVERY: Duration = Duration::from_secs(5);
/// How often the lock is read back and compared as a whole.
const VERIFY_EVERY: Duration = Duration::from_secs(30);

/// The shortest wait of the main loop.
const SHORTEST_TURN: Duration = Duration::from_millis(10);

impl Guest {
    /// Runs until shutdown is asked for. Never returns.
    pub(super) fn run_steady(&mut self, measured: &Measured) -> ! {
        self.document.identity = Some(identity(measured));
        self.document.mesh = mesh(measured);
        self.document.network_namespace = super::processes::network_namespace(1);
        let (mut next_report, mut next_measure, mut next_ports) =
            (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        let mut next_alive = power::uptime().saturating_add(ALIVE_EVERY);
        let mut next_verify = power::uptime().saturating_add(VERIFY_EVERY);
        while !self.shutdown {
            let now = power::uptime();
            if now >= next_measure {
                self.measure_memory();
                next_measure = now.saturating_add(MEASURE_EVERY);
            }
            if now >= next_ports {
                self.processes.iter_mut().for_each(super::Processes::look_at_ports);
                next_ports = now.saturating_add(PORTS_EVERY);
            }
            if now >= next_report {
                self.watchdog.arm(Stage::Ready, super::watchdog::STUCK);
                self.report();
                next_report = now.saturating_add(REPORT_EVERY);
            }
            if now >= next_alive {
                let missing = self.processes.as_ref().map_or(0, super::Processes::missing);
                power::tell(Stage::Ready, Reason::Alive, missing, measured.config.compose_hash().0);
                next_alive = now.saturating_add(ALIVE_EVERY);
            }
            if now >= next_verify {
                self.verify_lock(measured);
                next_verify = now.saturating_add(VERIFY_EVERY);
            }
            let due = self.processes.as_ref().and_then(super::Processes::next_restart).unwrap_or(next_report);
            // Never without a pause: a restart can be due while the last run's cgroup is still being emptied.
            self.turn(due.min(next_report).saturating_sub(now).max(SHORTEST_TURN));
            if let Err(failure) = self.apply_lease() {
                self.fail(measured, &failure);
            }
        }
        self.go_down(measured)
    }

    fn fail(&self, measured: &Measured, failure: &crate::boot::Failure) -> ! {
        crate::log::print("casemate", &format!("{failure}"));
        power::off_because(self.stage, failure.reason, failure.detail, measured.config.compose_hash().0)
    }

    fn verify_lock(&mut self, measured: &Measured) {
        let verified = self.lock.as_mut().map_or(Ok(()), lock::verify);
        if let Err(failure) = verified {
            self.document.egress.locked = false;
            self.fail(measured, &failure);
        }
    }

    /// PID 1 gives back what it has not used since the last time after it was measured: at first what only the boot ran
    /// through, then what a restart or a look at the lock took. So the figure is what PID 1 uses within [`MEASURE_EVERY`].
    fn measure_memory(&mut self) {
        self.document.memory = memory::of(1);
        if let Some(processes) = &mut self.processes {
            processes.measure_memory();
        }
        // What cannot be given back is kept.
        if let Err(error) = crate::sys::give_back_pages() {
            crate::log::print("casemate", &format!("pages to give back: {error}"));
        }
    }

    /// Renews the status document; the development image prints it when it changed.
    fn report(&mut self) {
        if let Some(lock) = &mut self.lock {
            match lock::counters(lock) {
                Ok(counters) => self.document.egress.counters = counters,
                Err(failure) => crate::log::print("casemate", &format!("{failure}")),
            }
        }
        if let Some(processes) = &self.processes {
            self.document.processes = processes.describe();
            self.document.mesh.ready = processes.is_ready("mesh");
            self.document.logs = processes.log_counts();
        }
        self.document.status_port = power::port_counts().unwrap_or(self.document.status_port);
        if self.document == self.printed {
            return;
        }
        if let Err(error) = self.document.store(Path::new(status::PATH)) {
            crate::log::print("casemate", &format!("{}: {error}", status::PATH));
        }
        if cfg!(feature = "dev") && self.document.is_news_after(&self.printed) {
            crate::log::show("casemate", &format!("status {}", console_line(&self.document)));
        }
        self.printed = self.document.clone();
    }

    /// Mesh first, so that no new request comes; then the workload; then what both stood on.
    fn go_down(&mut self, measured: &Measured) -> ! {
        let hash = measured.config.compose_hash().0;
        self.stage = Stage::Shutdown;
        self.document.stage = Stage::Shutdown.words();
        power::tell(Stage::Shutdown, Reason::Stopping, 0, hash);
        // Each of the three groups has its grace; twice their sum is the end of all patience.
        self.watchdog.arm(Stage::Shutdown, STOP_GRACE.saturating_mul(6));
        if let Some(processes) = &mut self.processes {
            processes.begin_stop();
        }
        type Group = fn(&str) -> bool;
        let groups: [Group; 3] = [
            |name| name == "mesh",
            |name| !matches!(name, "mesh" | "agent" | "dhcp" | super::time::NAME | super::vpn::NAME),
            |name| matches!(name, "agent" | "dhcp" | super::time::NAME | super::vpn::NAME),
        ];
        for group in groups {
            self.stop_group(group);
        }
        self.report();
        crate::log::print("casemate", "powered off in order");
        power::off_because(Stage::Shutdown, Reason::PoweredOff, 0, hash)
    }

    fn stop_group(&mut self, group: fn(&str) -> bool) {
        let until = power::uptime().saturating_add(STOP_GRACE);
        let mut killed = false;
        if let Some(processes) = &self.processes {
            processes.terminate(group);
        }
        while self.processes.as_ref().is_some_and(|processes| processes.any_running(group)) {
            let now = power::uptime();
            if now >= until && !killed {
                killed = true;
                if let Some(processes) = &self.processes {
                    processes.kill(group);
                }
            } else if now >= until.saturating_add(STOP_GRACE) {
                crate::log::print("casemate", "a process outlived its cgroup's kill");
                return;
            }
            self.turn(Duration::from_millis(100));
        }
    }
}

/// The document without the counters that have counted nothing: a serial console is slow.
fn console_line(document: &status::Document) -> String {
    let mut short = document.clone();
    short.egress.counters.retain(|counter| counter.packets > 0);
    serde_json::to_string(&short).unwrap_or_default()
}

fn mesh(measured: &Measured) -> status::Mesh {
    let section = measured.config.section();
    status::Mesh {
        ready: false,
        ports: section.mesh.backends.iter().map(|backend| backend.listen).collect(),
        log_readers: section.logs.readers.len(),
    }
}

fn identity(measured: &Measured) -> status::Identity {
    status::Identity {
        name: measured.config.name().to_owned(),
        node: measured.config.section().node.name.to_string(),
        app_id: measured.app_id.to_string(),
        compose_hash: measured.config.compose_hash().to_string(),
        instance_id: measured.instance_id.to_string(),
        tags: vec![measured.config.section().egress.mode.tag()],
    }
}
