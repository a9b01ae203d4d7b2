//! dstack's runtime events and their replay into RTMR3 (dstack `cc-eventlog/src/runtime_events.rs`).

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha384};

use crate::identity::{AppId, ComposeHash, InstanceId};
use crate::register::Register;

/// `DSTACK_RUNTIME_EVENT_TYPE`.
pub const RUNTIME_EVENT_TYPE: u32 = 0x0800_0001;

/// One runtime event: a name and a payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeEvent {
    /// Its name, such as `compose-hash`.
    pub event: String,
    /// Its payload.
    #[serde(with = "hex::serde")]
    pub payload: Vec<u8>,
}

impl RuntimeEvent {
    /// An event.
    pub fn new(event: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Self { event: event.into(), payload: payload.into() }
    }

    /// Version 1 digest: `SHA384(type_le ‖ ":" ‖ name ‖ ":" ‖ payload)`.
    pub fn digest(&self) -> Register {
        let digest = Sha384::new()
            .chain_update(RUNTIME_EVENT_TYPE.to_le_bytes())
            .chain_update(b":")
            .chain_update(&self.event)
            .chain_update(b":")
            .chain_update(&self.payload)
            .finalize();
        Register(digest.into())
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
