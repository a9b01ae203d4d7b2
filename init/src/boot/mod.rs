//! The boot as a table: each stage has a function, a deadline and what its failure does.
//!
//! Nothing in here touches the kernel: the stages act through [`Host`], so that the order of the boot and every failure
//! rule are unit tests.

use std::time::Duration;

use casemate_agent::{events_after_parsing, events_before_parsing};
use casemate_measure::manifest::{DOCUMENT_PATH, ModuleGroup};
use casemate_measure::status::{Reason, Stage};
use casemate_measure::{
    AppId, ComposeHash, EventLog, InstanceId, KeyProvider, MeasuredConfig, MrConfigId, Platform, Register,
    mr_config,
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
    /// The document that the measured initramfs carries, if it does.
    fn baked_document(&mut self) -> Result<Option<Vec<u8>>, Failure>;
    /// What the host share says. Asked only where no document is baked in.
    fn shared_document(&mut self) -> Result<Shared, Failure>;
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
    /// A first authenticated time, if the document names servers and insists.
    fn time(&mut self, config: &MeasuredConfig) -> Result<(), Failure>;
    /// The guest agent, until it is ready.
    fn agent(&mut self, measured: &Measured) -> Result<(), Failure>;
    /// Namespaces and the workload.
    fn services(&mut self, measured: &Measured) -> Result<(), Failure>;
    /// The mesh proxy, until it is ready.
    fn mesh(&mut self, measured: &Measured) -> Result<(), Failure>;
    /// Everything runs.
    fn ready(&mut self, measured: &Measured);
}

/// What the host share says: bytes of the host's, of which only forms were checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shared {
    /// `app-compose.json`, byte for byte.
    pub document: Vec<u8>,
    /// The document behind MRCONFIGID version 3, byte for byte.
    pub mr_config: Option<Vec<u8>>,
    /// The instance id's seed of an earlier boot.
    pub instance_id_seed: Option<[u8; 20]>,
    /// The app id, where it is not the compose hash's.
    pub app_id: Option<AppId>,
}

/// How the document came. Only with a baked one may MRCONFIGID be zero.
#[derive(Clone, Debug)]
enum Source {
    /// Part of the measured initramfs; the share was never opened.
    Baked(Vec<u8>),
    /// From the host share.
    Share(Shared),
}

impl Source {
    /// What to call the document in errors.
    fn name(&self) -> String {
        match self {
            Self::Baked(_) => format!("/{DOCUMENT_PATH}"),
            Self::Share(_) => format!("host share: {}", crate::share::DOCUMENT),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Baked(document) => document,
            Self::Share(shared) => &shared.document,
        }
    }

    fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Baked(document) => document,
            Self::Share(shared) => shared.document,
        }
    }

    const fn shared(&self) -> Option<&Shared> {
        match self {
            Self::Baked(_) => None,
            Self::Share(shared) => Some(shared),
        }
    }
}

/// A document that was hashed and extended, and not looked into yet.
#[derive(Clone, Debug)]
struct Hashed {
    source: Source,
    compose_hash: ComposeHash,
    /// As extended: the host's word, or the compose hash's.
    app_id: AppId,
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
    hashed: Option<Hashed>,
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
const fn table<H: Host>() -> [Row<H>; 15] {
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
        Row { stage: Stage::Time, deadline: seconds(120), run: |h, p| h.time(&p.measured()?.config) },
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
    let source = if let Some(document) = host.baked_document()? {
        Source::Baked(document)
    } else {
        host.load_modules(ModuleGroup::Share)?;
        Source::Share(host.shared_document()?)
    };
    let compose_hash = ComposeHash::of(source.bytes());
    let app_id = source.shared().and_then(|shared| shared.app_id).unwrap_or_else(|| compose_hash.app_id());
    for event in events_before_parsing(&compose_hash, &app_id) {
        let digest = progress.events.push(event);
        host.extend(&digest)?;
    }
    let bound = host.mr_config_id()?;
    if bound == MrConfigId::ZERO {
        if source.shared().is_some() {
            let text = "MRCONFIGID: expected the document's, found zero, which is accepted only with a baked document";
            return Err(Failure::new(Reason::ConfigIdMismatch, text).about(compose_hash.0));
        }
    } else if version(&bound) == 1 {
        matches(&bound, &MrConfigId::v1(&compose_hash), &compose_hash)?;
    }
    progress.hashed = Some(Hashed { source, compose_hash, app_id });
    Ok(())
}

/// Parse, compare with the later versions of MRCONFIGID, and only then extend what parsing told.
fn parse<H: Host>(host: &mut H, progress: &mut Progress) -> Result<(), Failure> {
    let Some(hashed) = progress.hashed.take() else {
        return Err(Failure::new(Reason::NoDocument, "nothing was measured"));
    };
    let about = hashed.compose_hash.0;
    let config = MeasuredConfig::parse(&hashed.source.name(), hashed.source.bytes(), Platform::Appliance)
        .map_err(|error| Failure::new(Reason::DocumentRefused, error.to_string()).about(about))?;
    let provider = config.key_provider();
    let instance_id = instance_id(host, &hashed, provider)?;
    check_config_id(&host.mr_config_id()?, &hashed, provider, &instance_id)?;
    check_app_id(&hashed, provider)?;
    for event in events_after_parsing(Some(&instance_id), provider) {
        let digest = progress.events.push(event);
        host.extend(&digest)?;
    }
    progress.measured = Some(Measured {
        config,
        app_id: hashed.app_id,
        document: hashed.source.into_bytes(),
        instance_id,
        events: progress.events.clone(),
    });
    Ok(())
}

/// The host's seed counts where keys come from somewhere and survive a boot; without a key provider each boot is an instance
/// of its own, as in dstack (`dstack-util/src/system_setup.rs`).
fn instance_id<H: Host>(
    host: &mut H,
    hashed: &Hashed,
    provider: &KeyProvider,
) -> Result<InstanceId, Failure> {
    let kept = match provider {
        KeyProvider::None => None,
        KeyProvider::Local(_) | KeyProvider::Kms(_) | KeyProvider::Tpm => {
            hashed.source.shared().and_then(|shared| shared.instance_id_seed)
        }
    };
    let seed = match kept {
        Some(seed) => seed,
        None => host.instance_seed()?,
    };
    Ok(InstanceId::derive(&seed, &hashed.app_id))
}

fn check_config_id(
    bound: &MrConfigId,
    hashed: &Hashed,
    provider: &KeyProvider,
    instance_id: &InstanceId,
) -> Result<(), Failure> {
    let compose_hash = &hashed.compose_hash;
    let mismatch = |text: String| Failure::new(Reason::ConfigIdMismatch, text).about(compose_hash.0);
    match version(bound) {
        // These two were judged before parsing.
        0 if *bound == MrConfigId::ZERO => Ok(()),
        1 => Ok(()),
        2 => matches(bound, &MrConfigId::v2(compose_hash, &hashed.app_id, provider), compose_hash),
        3 => {
            let Some(document) = hashed.source.shared().and_then(|shared| shared.mr_config.as_deref()) else {
                let text = "MRCONFIGID version 3: expected its document in the host share's .sys-config.json, found none";
                return Err(mismatch(text.to_owned()));
            };
            matches(bound, &MrConfigId::v3(document), compose_hash)?;
            let measured = mr_config::Measured {
                compose_hash,
                app_id: &hashed.app_id,
                key_provider: provider,
                instance_id,
            };
            mr_config::check(document, &measured).map_err(|error| mismatch(error.to_string()))
        }
        other => Err(mismatch(format!("MRCONFIGID: expected version 1, 2 or 3, found {other}"))),
    }
}

/// Without a KMS nobody vouches for an app id but the document itself.
fn check_app_id(hashed: &Hashed, provider: &KeyProvider) -> Result<(), Failure> {
    let own = hashed.compose_hash.app_id();
    if hashed.app_id == own || matches!(provider, KeyProvider::Kms(_)) {
        return Ok(());
    }
    let text = format!("app id: expected {own} without a KMS, found {} in .instance_info", hashed.app_id);
    Err(Failure::new(Reason::AppIdMismatch, text).about(hashed.compose_hash.0))
}

fn version(bound: &MrConfigId) -> u8 {
    bound.0.first().copied().unwrap_or_default()
}

fn matches(bound: &MrConfigId, expected: &MrConfigId, compose_hash: &ComposeHash) -> Result<(), Failure> {
    if bound == expected {
        return Ok(());
    }
    let text = format!("MRCONFIGID: expected {expected}, found {bound}");
    Err(Failure::new(Reason::ConfigIdMismatch, text).about(compose_hash.0))
}

fn lock<H: Host>(host: &mut H, progress: &mut Progress) -> Result<(), Failure> {
    host.load_modules(ModuleGroup::Lock)?;
    host.lock(&progress.measured()?.config)
}

fn modules<H: Host>(host: &mut H, _: &mut Progress) -> Result<(), Failure> {
    host.load_modules(ModuleGroup::Late)?;
    host.disable_modules()
}
