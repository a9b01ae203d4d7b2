//! RTMR3: the events of a boot, in the order in which PID 1 extends them (dstack 0.5.6 to 0.5.11,
//! `dstack-util/src/system_setup.rs`). One builder, so that the guest, the host-side simulated agent and whoever computes
//! what to expect cannot differ.

use std::fmt;

use super::event::{Digest, Event, EventType, Rtmr};
use crate::document::MeasuredConfig;
use crate::event::RuntimeEvent;
use crate::identity::{AppId, ComposeHash, InstanceId, KeyProvider};

/// What is extended before the document is parsed: `system-preparing`, `app-id`, `compose-hash`.
pub fn events_before_parsing(compose: &ComposeHash, app: &AppId) -> [RuntimeEvent; 3] {
    [
        RuntimeEvent::new("system-preparing", []),
        RuntimeEvent::new("app-id", app.0),
        RuntimeEvent::new("compose-hash", compose.0),
    ]
}

/// What is extended after the document was parsed and before any field takes effect: `instance-id` (empty payload if
/// the app has none), `boot-mr-done`, `key-provider`, `system-ready`. No `storage-fs`: there is no disk.
pub fn events_after_parsing(instance: Option<&InstanceId>, provider: &KeyProvider) -> [RuntimeEvent; 4] {
    [
        RuntimeEvent::new("instance-id", instance.map(|id| id.0.to_vec()).unwrap_or_default()),
        RuntimeEvent::new("boot-mr-done", []),
        RuntimeEvent::new("key-provider", provider.event_payload()),
        RuntimeEvent::new("system-ready", []),
    ]
}

/// Which instance boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instance {
    /// One whose id is known.
    Known(InstanceId),
    /// An app whose document asks for none.
    Without,
    /// Any: the seed is the machine's, and drawn at each boot if the key provider is `none`.
    Unknown,
}

/// The file system of the data disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageFs {
    /// `ext4`
    Ext4,
    /// `zfs`
    Zfs,
}

impl fmt::Display for StorageFs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ext4 => "ext4",
            Self::Zfs => "zfs",
        })
    }
}

/// What a boot extends RTMR3 with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// Hash of the document.
    pub compose_hash: ComposeHash,
    /// The app id: without a KMS the first 20 bytes of the compose hash.
    pub app_id: AppId,
    /// The instance.
    pub instance: Instance,
    /// Where keys come from.
    pub key_provider: KeyProvider,
    /// The data disk, if there is one (dstack since 0.5.5; not in this image).
    pub storage_fs: Option<StorageFs>,
}

impl Boot {
    /// The boot of a document in our image, in any instance.
    pub fn of(document: &MeasuredConfig) -> Self {
        Self {
            compose_hash: document.compose_hash(),
            app_id: document.app_id(),
            instance: Instance::Unknown,
            key_provider: document.key_provider().clone(),
            storage_fs: None,
        }
    }
}

/// The expected events of a boot. With an unknown instance its event is unpinned, and so is the register.
pub fn events(boot: &Boot) -> Vec<Event> {
    let instance = match &boot.instance {
        Instance::Known(id) => Some(id),
        Instance::Without | Instance::Unknown => None,
    };
    let before = events_before_parsing(&boot.compose_hash, &boot.app_id);
    let mut events: Vec<_> =
        before.into_iter().chain(events_after_parsing(instance, &boot.key_provider)).collect();
    if let Some(fs) = boot.storage_fs {
        // dstack extends it between key-provider and system-ready.
        events.insert(events.len().saturating_sub(1), RuntimeEvent::new("storage-fs", fs.to_string()));
    }
    events.iter().map(|event| expected(boot, event)).collect()
}

fn expected(boot: &Boot, event: &RuntimeEvent) -> Event {
    let unknown = event.event == "instance-id" && boot.instance == Instance::Unknown;
    let digest = if unknown { Digest::Unpinned } else { Digest::Known(event.digest()) };
    let event_type = EventType::DSTACK_RUNTIME;
    Event { rtmr: Rtmr::Rtmr3, event_type, name: event.event.clone(), digest, origin: origin(boot, event) }
}

fn origin(boot: &Boot, event: &RuntimeEvent) -> String {
    match (event.event.as_str(), &boot.instance) {
        ("app-id", _) if boot.app_id == boot.compose_hash.app_id() => {
            format!("{} (the first 20 bytes of the compose hash)", boot.app_id)
        }
        ("app-id", _) => format!("{} (given)", boot.app_id),
        ("compose-hash", _) => format!("{} (SHA-256 of the document)", boot.compose_hash),
        ("instance-id", Instance::Known(id)) => format!("{id} (given)"),
        ("instance-id", Instance::Without) => "empty: the app has no instance id".to_owned(),
        ("instance-id", Instance::Unknown) => {
            "not pinned: no instance id was given, and each machine has its own".to_owned()
        }
        ("key-provider", _) => boot.key_provider.event_payload(),
        ("storage-fs", _) => boot.storage_fs.map(|fs| fs.to_string()).unwrap_or_default(),
        _ => "constant: no payload".to_owned(),
    }
}
