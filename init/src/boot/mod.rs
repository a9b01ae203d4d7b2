//! The boot as a table: each stage has a function, a deadline and what its failure does.
//!
//! Nothing in here touches the kernel: the stages act through [`Host`], so that the order of the boot and every failure
//! rule are unit tests.

use std::time::Duration;

use casemate_agent::{events_after_parsing, events_before_parsing};
use casemate_measure::manifest::ModuleGroup;
use casemate_measure::status::{Reason, Stage};
use casemate_measure::{
    AppId, ComposeHash, EventLog, InstanceId, KeyProvider, MeasuredConfig, MrConfigId, Platform, Register,
};

mod failure;
#[cfg(test)]
mod tests;

pub use failure::Failure;

/// What the boot needs of the machine. The real one is [`crate::guest::Guest`].
pub trait Host {
    /// A stage begins: tell the host, and power off if it has not ended when `deadline` has passed.
    fn enter(&mut self, stage: Stage, deadline: Duration);
    /// Signals, descriptors, limits, hostname.
    fn early(&mut self) -> Result<(), Failure>;
    /// /dev, /proc, /sys, cgroups, tmpfs.
    fn mounts(&mut self) -> Result<(), Failure>;
    /// Every file of the initramfs against the manifest.
    fn check_manifest(&mut self) -> Result<(), Failure>;
    /// Kernel settings, each read back; and the clock, never before the image's epoch.
    fn sysctls(&mut self) -> Result<(), Failure>;
    /// Waits for the kernel's random number generator.
    fn entropy(&mut self) -> Result<(), Failure>;
    /// Finds the TEE.
    fn find_tee(&mut self) -> Result<(), Failure>;
    /// The measured document's bytes.
    fn document(&mut self) -> Result<Document, Failure>;
    /// Extends RTMR3.
    fn extend(&mut self, digest: &Register) -> Result<(), Failure>;
    /// MRCONFIGID as the host set it at launch.
    fn mr_config_id(&mut self) -> Result<MrConfigId, Failure>;
    /// 20 random bytes.
    fn instance_seed(&mut self) -> Result<[u8; 20], Failure>;
    /// Loads a group of modules, in order.
    fn load_modules(&mut self, group: ModuleGroup) -> Result<(), Failure>;
    /// Forbids any more of them, and reads that back.
    fn disable_modules(&mut self) -> Result<(), Failure>;
    /// Sets the egress lock, reads it back and compares.
    fn lock(&mut self, config: &MeasuredConfig) -> Result<(), Failure>;
    /// Loopback, and the physical link behind its own lock.
    fn links(&mut self, config: &MeasuredConfig) -> Result<(), Failure>;
    /// The physical link's address.
    fn address(&mut self, config: &MeasuredConfig) -> Result<(), Failure>;
    /// The guest agent, until it is ready.
    fn agent(&mut self, measured: &Measured) -> Result<(), Failure>;
    /// Namespaces and the workload.
    fn services(&mut self, measured: &Measured) -> Result<(), Failure>;
    /// The mesh proxy, until it is ready.
    fn mesh(&mut self, measured: &Measured) -> Result<(), Failure>;
    /// Everything runs.
    fn ready(&mut self, measured: &Measured);
}

/// The document, and how it came.
#[derive(Clone, Debug)]
pub struct Document {
    /// What to call it in errors.
    pub name: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Whether it was part of the measured initramfs. Only then may MRCONFIGID be zero.
    pub baked: bool,
}

/// What the boot knows after measuring and parsing.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The checked document.
    pub config: MeasuredConfig,
    /// Its bytes.
    pub document: Vec<u8>,
    /// The app.
    pub app_id: AppId,
    /// This boot of it.
    pub instance_id: InstanceId,
    /// RTMR3's events.
    pub events: EventLog,
}

/// One row of the table.
struct Row<H> {
    stage: Stage,
    deadline: Duration,
    run: fn(&mut H, &mut Progress) -> Result<(), Failure>,
}

/// What stages hand on to later ones.
#[derive(Default)]
struct Progress {
    document: Option<Document>,
    compose_hash: Option<ComposeHash>,
    events: EventLog,
    measured: Option<Measured>,
}

impl Progress {
    fn measured(&self) -> Result<&Measured, Failure> {
        self.measured.as_ref().ok_or_else(|| Failure::new(Reason::NoDocument, "nothing was measured"))
    }
}

/// The table. Every failure powers off: before the lock because nothing may run unlocked, after it because a machine
/// without its address, agent, workload or mesh is not the machine that was measured. What dies later is restarted
/// by the supervisor (see [`crate::supervise`]).
const fn table<H: Host>() -> [Row<H>; 14] {
    const fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }
    [
        Row { stage: Stage::Early, deadline: seconds(10), run: |h, _| h.early() },
        Row { stage: Stage::Mounts, deadline: seconds(10), run: |h, _| h.mounts() },
        Row { stage: Stage::Manifest, deadline: seconds(60), run: |h, _| h.check_manifest() },
        Row { stage: Stage::Sysctls, deadline: seconds(10), run: |h, _| h.sysctls() },
        Row { stage: Stage::Entropy, deadline: seconds(30), run: |h, _| h.entropy() },
        Row { stage: Stage::Tee, deadline: seconds(30), run: tee },
        Row { stage: Stage::Measure, deadline: seconds(30), run: measure },
        Row { stage: Stage::Document, deadline: seconds(30), run: parse },
        Row { stage: Stage::Lock, deadline: seconds(60), run: lock },
        Row { stage: Stage::Modules, deadline: seconds(120), run: modules },
        Row { stage: Stage::Links, deadline: seconds(30), run: |h, p| h.links(&p.measured()?.config) },
        Row { stage: Stage::Address, deadline: seconds(120), run: |h, p| h.address(&p.measured()?.config) },
        Row { stage: Stage::Agent, deadline: seconds(60), run: |h, p| h.agent(p.measured()?) },
        Row { stage: Stage::Services, deadline: seconds(60), run: |h, p| h.services(p.measured()?) },
    ]
}

/// How long the mesh proxy may take to come up: it asks the agent for its certificate first.
const MESH_DEADLINE: Duration = Duration::from_secs(60);

/// Runs the boot to its end.
///
/// # Errors
/// The stage that failed, and why. The caller powers off.
pub fn run<H: Host>(host: &mut H) -> Result<Measured, (Stage, Failure)> {
    let mut progress = Progress::default();
    let mesh = Row { stage: Stage::Mesh, deadline: MESH_DEADLINE, run: |h: &mut H, p| h.mesh(p.measured()?) };
    for row in table::<H>().iter().chain([&mesh]) {
        host.enter(row.stage, row.deadline);
        (row.run)(host, &mut progress).map_err(|failure| (row.stage, failure))?;
    }
    let measured = progress.measured.ok_or_else(|| {
        (Stage::Document, Failure::new(Reason::NoDocument, "the table ended without a document"))
    })?;
    host.ready(&measured);
    Ok(measured)
}

fn tee<H: Host>(host: &mut H, _: &mut Progress) -> Result<(), Failure> {
    host.load_modules(ModuleGroup::Tee)?;
    host.find_tee()
}

/// Hash first, extend first, compare with MRCONFIGID version 1; nothing is parsed yet.
fn measure<H: Host>(host: &mut H, progress: &mut Progress) -> Result<(), Failure> {
    let document = host.document()?;
    let compose = ComposeHash::of(&document.bytes);
    for event in events_before_parsing(&compose, &compose.app_id()) {
        let digest = progress.events.push(event);
        host.extend(&digest)?;
    }
    let bound = host.mr_config_id()?;
    let version = bound.0.first().copied().unwrap_or_default();
    if bound == MrConfigId::ZERO {
        if !document.baked {
            return Err(Failure::new(
                Reason::ConfigIdMismatch,
                "MRCONFIGID is zero, which is accepted only with a document baked into the image",
            ));
        }
    } else if version == 1 && bound != MrConfigId::v1(&compose) {
        return Err(Failure::new(
            Reason::ConfigIdMismatch,
            format!("MRCONFIGID: expected {}, found {bound}", MrConfigId::v1(&compose)),
        )
        .about(compose.0));
    }
    progress.compose_hash = Some(compose);
    progress.document = Some(document);
    Ok(())
}

/// Parse, compare with the later versions of MRCONFIGID, and only then extend what parsing told.
fn parse<H: Host>(host: &mut H, progress: &mut Progress) -> Result<(), Failure> {
    let (Some(document), Some(compose)) = (progress.document.take(), progress.compose_hash) else {
        return Err(Failure::new(Reason::NoDocument, "nothing was measured"));
    };
    let config = MeasuredConfig::parse(&document.name, &document.bytes, Platform::Appliance)
        .map_err(|error| Failure::new(Reason::DocumentRefused, error.to_string()).about(compose.0))?;
    let app_id = compose.app_id();
    check_config_id(&host.mr_config_id()?, &compose, &app_id, config.key_provider())?;
    let instance_id = InstanceId::derive(&host.instance_seed()?, &app_id);
    for event in events_after_parsing(Some(&instance_id), config.key_provider()) {
        let digest = progress.events.push(event);
        host.extend(&digest)?;
    }
    progress.measured = Some(Measured {
        config,
        document: document.bytes,
        app_id,
        instance_id,
        events: progress.events.clone(),
    });
    Ok(())
}

fn check_config_id(
    bound: &MrConfigId,
    compose: &ComposeHash,
    app: &AppId,
    provider: &KeyProvider,
) -> Result<(), Failure> {
    let expected = match bound.0.first() {
        Some(2) => MrConfigId::v2(compose, app, provider),
        // These two were judged before parsing.
        _ if *bound == MrConfigId::ZERO => return Ok(()),
        Some(1) => return Ok(()),
        version => {
            return Err(Failure::new(
                Reason::ConfigIdMismatch,
                format!(
                    "MRCONFIGID: expected version 1 or 2, found {version:?} (version 3 needs the host share)"
                ),
            ));
        }
    };
    if *bound == expected {
        return Ok(());
    }
    Err(Failure::new(Reason::ConfigIdMismatch, format!("MRCONFIGID: expected {expected}, found {bound}")))
}

fn lock<H: Host>(host: &mut H, progress: &mut Progress) -> Result<(), Failure> {
    host.load_modules(ModuleGroup::Lock)?;
    host.lock(&progress.measured()?.config)
}

fn modules<H: Host>(host: &mut H, _: &mut Progress) -> Result<(), Failure> {
    host.load_modules(ModuleGroup::Late)?;
    host.disable_modules()
}
