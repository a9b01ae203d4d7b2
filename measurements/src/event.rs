//! dstack's runtime events and their replay into RTMR3 (dstack `cc-eventlog/src/runtime_events.rs`).

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha384};

use crate::identity::{AppId, ComposeHash, InstanceId};
use crate::register::Register;
use crate::tdx::EventType;

/// `DSTACK_RUNTIME_EVENT_TYPE`.
pub const RUNTIME_EVENT_TYPE: u32 = EventType::DSTACK_RUNTIME.0;

/// How the digest of a runtime event is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DigestVersion {
    /// Of type, name and payload with colons between them: every dstack release, and ours.
    #[default]
    V1,
    /// Of a canonical JSON object: what dstack can be told to do after 0.5.11 (`event_log_version: 2`).
    V2,
}

impl DigestVersion {
    /// Whether it is the usual one, which is not written down.
    fn is_v1(&self) -> bool {
        *self == Self::V1
    }
}

/// One runtime event: a name and a payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeEvent {
    /// Its name, such as `compose-hash`.
    pub event: String,
    /// Its payload.
    #[serde(with = "hex::serde")]
    pub payload: Vec<u8>,
    /// How its digest is made.
    #[serde(default, skip_serializing_if = "DigestVersion::is_v1")]
    pub version: DigestVersion,
}

impl RuntimeEvent {
    /// An event as every dstack release writes it, and we.
    pub fn new(event: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Self { event: event.into(), payload: payload.into(), version: DigestVersion::V1 }
    }

    /// What the event extends its register with.
    pub fn digest(&self) -> Register {
        self.digest_of(self.version)
    }

    /// Version 1: `SHA384(type_le ‖ ":" ‖ name ‖ ":" ‖ payload)`.
    fn digest_v1(&self) -> Register {
        let digest = Sha384::new()
            .chain_update(RUNTIME_EVENT_TYPE.to_le_bytes())
            .chain_update(b":")
            .chain_update(&self.event)
            .chain_update(b":")
            .chain_update(&self.payload)
            .finalize();
        Register(digest.into())
    }

    /// What version 2 digests: the object as RFC 8785 (JCS) writes it, `{"name":"…","payload":"…","type":134217729}`, the
    /// payload in lower-case hex.
    pub fn preimage_v2(&self) -> String {
        // serde_json escapes exactly what RFC 8785 section 3.2.2.2 has escaped, in the same spelling.
        let name = serde_json::Value::from(self.event.as_str());
        format!(r#"{{"name":{name},"payload":"{}","type":{RUNTIME_EVENT_TYPE}}}"#, hex::encode(&self.payload))
    }

    /// The digest of that version.
    pub fn digest_of(&self, version: DigestVersion) -> Register {
        match version {
            DigestVersion::V1 => self.digest_v1(),
            DigestVersion::V2 => Register::digest(self.preimage_v2().as_bytes()),
        }
    }
}

/// Runtime events in the order in which they were extended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventLog(Vec<RuntimeEvent>);

impl EventLog {
    /// A log of these events.
    pub const fn new(events: Vec<RuntimeEvent>) -> Self {
        Self(events)
    }

    /// Appends an event and returns the digest to extend.
    pub fn push(&mut self, event: RuntimeEvent) -> Register {
        let digest = event.digest();
        self.0.push(event);
        digest
    }

    /// The events.
    pub fn events(&self) -> &[RuntimeEvent] {
        &self.0
    }

    /// RTMR3 as these events make it, from zero.
    pub fn replay(&self) -> Register {
        self.0.iter().fold(Register::ZERO, |register, event| register.extended(&event.digest()))
    }

    /// RTMR3 up to and including the first `boot-mr-done`, which dstack's boot-time `mr_aggregated` is over; all of it if
    /// there is none.
    pub fn replay_boot_time(&self) -> Register {
        let last = self.0.iter().position(|event| event.event == "boot-mr-done");
        let counted = last.map_or(self.0.len(), |index| index.saturating_add(1));
        let events = self.0.iter().take(counted);
        events.fold(Register::ZERO, |register, event| register.extended(&event.digest()))
    }

    /// The first event of that name before `system-ready`, as dstack's verifiers look it up.
    pub fn find(&self, name: &str) -> Option<&RuntimeEvent> {
        self.0.iter().take_while(|e| e.event != "system-ready").find(|e| e.event == name)
    }

    /// The app id, if the log names one of 20 bytes.
    pub fn app_id(&self) -> Option<AppId> {
        Some(AppId(self.find("app-id")?.payload.as_slice().try_into().ok()?))
    }

    /// The compose hash, if the log names one of 32 bytes.
    pub fn compose_hash(&self) -> Option<ComposeHash> {
        Some(ComposeHash(self.find("compose-hash")?.payload.as_slice().try_into().ok()?))
    }

    /// The instance id, if the log names one of 20 bytes.
    pub fn instance_id(&self) -> Option<InstanceId> {
        Some(InstanceId(self.find("instance-id")?.payload.as_slice().try_into().ok()?))
    }
}
