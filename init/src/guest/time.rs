//! The machine's clock: PID 1 alone sets it, by the rule of [`Clock`].

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use casemate_measure::MeasuredConfig;
use casemate_measure::section::NtsServer;
use casemate_measure::status::{Reason, Stage};

use super::{Guest, Health, OWN_LIMITS, Recipe, power, settings};
use crate::boot::Failure;
use crate::handover::Proven;
use crate::layout::TIME_UID;
use crate::roles;
use crate::supervise::{PACE, Restarts};
use crate::sys;
use crate::time::{Change, Clock, Handover, Phase, Proof, Report, Server, Status};

/// The process's name.
pub(super) const NAME: &str = "time";

/// How long the boot waits for an authenticated time that the document does not insist on: later, a clock that is ahead
/// cannot be set back any more.
const BEST_EFFORT: Duration = Duration::from_secs(10);

/// The clock, and whom the document names to ask.
#[derive(Debug)]
pub(super) struct GuestClock {
    clock: Clock,
    servers: Vec<NtsServer>,
}

impl Guest {
    /// From here on the clock has a rule: never before the image's epoch.
    pub(super) fn start_clock(&mut self, init: &Path) -> Result<(), Failure> {
        let clock = Clock::new(settings::epoch(init)?);
        carry_out(clock.at_least_the_floor(now()))?;
        self.document.time = Status::new(&clock);
        self.clock = Some(GuestClock { clock, servers: Vec::new() });
        Ok(())
    }

    /// Asks the named servers, if there are any, and waits for the first time that they agree on: as long as the stage lasts
    /// if the document insists, else a moment.
    pub(super) fn obtain_time(&mut self, config: &MeasuredConfig) -> Result<(), Failure> {
        let servers = &config.section().time.nts;
        if servers.is_empty() {
            return Ok(());
        }
        let required = config.secure_time();
        self.document.time.required = required;
        let recipe = self.time_recipe(servers)?;
        self.processes()?
            .start(recipe)
            .map_err(|error| Failure::errno(Reason::NoTime, "time client", &error))?;
        if !required {
            self.deadline = self.deadline.min(power::uptime().saturating_add(BEST_EFFORT));
        }
        match self.wait_for(Reason::NoTime, "NTS", |guest| guest.document.time.is_authenticated()) {
            Err(failure) if failure.reason == Reason::NoTime && !required => {
                crate::log::print("casemate", &format!("{failure}; it is the host's until there is one"));
                Ok(())
            }
            Err(failure) => Err(failure.numbered(self.document.time.refused)),
            Ok(()) => Ok(()),
        }
    }

    fn time_recipe(&mut self, servers: &[NtsServer]) -> Result<Recipe, Failure> {
        let failed = |text: &dyn std::fmt::Display| Failure::new(Reason::NoTime, text.to_string());
        let clock = self.clock.as_mut().ok_or_else(|| failed(&"a time client before there is a clock"))?;
        clock.servers = servers.to_vec();
        let named = |server: &NtsServer| Server { address: server.address, name: server.name.clone() };
        let handover = Handover {
            servers: servers.iter().map(named).collect(),
            floor: clock.clock.floor().as_secs(),
            horizon: clock.clock.horizon().as_secs(),
        };
        Ok(Recipe {
            name: NAME.into(),
            role: roles::TIME,
            handover: serde_json::to_vec(&handover).map_err(|error| failed(&error))?,
            extra: Vec::new(),
            uid: Some(TIME_UID),
            namespaces: sys::Namespaces::Shared,
            leaf: Self::leaf(NAME, OWN_LIMITS, Reason::NoTime)?,
            restarts: Restarts::for_ever(PACE),
            health: Health::Unknown,
        })
    }

    /// Takes in what the time client says. It reads what the network sends, so that is judged again; and a clock that cannot
    /// be set powers off.
    pub(super) fn take_time(&mut self, bytes: &[u8]) {
        let Some(GuestClock { clock, servers }) = &mut self.clock else { return };
        let status = &mut self.document.time;
        // Before the agent has a certificate there is nothing yet that a step back could hurt.
        let phase = if self.stage == Stage::Time { Phase::Starting } else { Phase::Running };
        let (now, uptime) = (now(), power::uptime());
        let judged = Report::decode(bytes, servers.len())
            .and_then(|report| Ok((report, clock.judge(&report.sample, phase, now, uptime)?)));
        match judged {
            Ok((report, change)) => {
                if let Err(failure) = carry_out(change) {
                    crate::log::print("casemate", &format!("{failure}"));
                    power::off_because(self.stage, failure.reason, failure.detail, failure.digest);
                }
                let server = servers.get(usize::from(report.server)).map(|server| server.address);
                status.judged(&report, server, change, now, uptime);
                status.floor(clock);
            }
            Err(error) => {
                status.refused = status.refused.saturating_add(1);
                crate::log::print("casemate", &format!("time client: {error}"));
            }
        }
    }

    /// Takes in what time the mesh's collateral proves. The mesh reads what the network sends, so that is judged again: it can
    /// only raise the clock, and not beyond the horizon.
    pub(super) fn take_proof(&mut self, bytes: &[u8]) {
        let (Some(GuestClock { clock, .. }), Some(Proven(time))) = (&mut self.clock, Proven::decode(bytes))
        else {
            return;
        };
        let status = &mut self.document.time;
        match clock.prove_at_least(time, Proof::Collateral, now()) {
            Ok(change) => {
                if let Err(failure) = carry_out(change) {
                    crate::log::print("casemate", &format!("{failure}"));
                    power::off_because(self.stage, failure.reason, failure.detail, failure.digest);
                }
                status.floor(clock);
            }
            Err(error) => {
                status.refused = status.refused.saturating_add(1);
                crate::log::print("casemate", &format!("time by collateral: {error}"));
            }
        }
    }
}

/// What the wall clock says.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn carry_out(change: Change) -> Result<(), Failure> {
    match change {
        Change::Keep | Change::Skewed => Ok(()),
        Change::Step(time) => sys::set_clock(time),
        Change::Slew(nanoseconds) => sys::slew_clock(nanoseconds),
    }
    .map_err(|error| Failure::errno(Reason::ClockFailed, "clock", &error))
}
