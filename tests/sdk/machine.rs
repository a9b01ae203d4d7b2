//! A booted machine as its services see it: an agent on a socket, and what it has to say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use casemate_agent::{Agent, Handover, TeeHandover, boot_events, serve};
use casemate_measure::event::RUNTIME_EVENT_TYPE;
use casemate_measure::tdx::aggregated::mr_aggregated;
use casemate_measure::{
    EventLog, InstanceId, KeyProvider, LaunchRegisters, MeasuredConfig, Platform, Register,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256, Sha384};
use tempfile::TempDir;
use tokio::net::UnixListener;

/// What `Version` answers.
pub(crate) const VERSION: &str = "7.8.9";

/// A running agent. It ends with the test's runtime.
#[derive(Debug)]
pub(crate) struct Machine {
    folder: TempDir,
    document: String,
    config: MeasuredConfig,
    instance: InstanceId,
    launch: LaunchRegisters,
    events: EventLog,
}

impl Machine {
    /// Boots that document on an image of which no two registers are the same.
    pub(crate) fn boot(document: &str) -> Self {
        let config =
            MeasuredConfig::parse("app-compose.json", document.as_bytes(), Platform::Appliance).unwrap();
        let (compose_hash, app_id) = (config.compose_hash(), config.app_id());
        let instance = InstanceId::derive(&[5; 20], &app_id);
        let launch = LaunchRegisters {
            mrtd: Register([0x11; 48]),
            rtmr0: Register([0x22; 48]),
            rtmr1: Register([0x33; 48]),
            rtmr2: Register([0x44; 48]),
            ..LaunchRegisters::ZERO
        };
        let events = EventLog::new(boot_events(&compose_hash, &app_id, Some(&instance)));
        let agent = Agent::new(Handover {
            document: document.to_owned(),
            app_name: config.name().to_owned(),
            compose_hash,
            app_id,
            instance_id: Some(instance),
            key_provider: KeyProvider::None.event_payload(),
            events: events.clone(),
            tee: TeeHandover::Simulator { launch },
            version: VERSION.to_owned(),
        });
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("dstack.sock")).unwrap();
        tokio::spawn(serve(listener, agent.unwrap()));
        Self { folder, document: document.to_owned(), config, instance, launch, events }
    }

    /// Where the agent listens.
    pub(crate) fn socket(&self) -> PathBuf {
        Path::new(self.folder.path()).join("dstack.sock")
    }

    /// SHA-256 of the document's bytes: what is in RTMR3.
    pub(crate) fn compose_hash(&self) -> String {
        hex::encode(Sha256::digest(&self.document))
    }

    /// SHA-256 of the document as dstack's clients write it: sorted keys, no spaces.
    pub(crate) fn canonical_hash(&self) -> String {
        hex::encode(Sha256::digest(canonical(&self.document)))
    }

    /// MRTD and RTMR0 to RTMR3.
    pub(crate) fn registers(&self) -> [Register; 5] {
        let LaunchRegisters { mrtd, rtmr0, rtmr1, rtmr2, .. } = self.launch;
        [mrtd, rtmr0, rtmr1, rtmr2, self.events.replay()]
    }

    /// RTMR3's events as `Info` lists them, or as `GetQuote` does: there without digests (dstack since 0.5.6).
    pub(crate) fn event_log(&self, with_digests: bool) -> Value {
        let events = self.events.events().iter().map(|event| {
            json!({
                "imr": 3,
                "event_type": RUNTIME_EVENT_TYPE,
                "digest": if with_digests { event.digest().to_string() } else { String::new() },
                "event": event.event,
                "event_payload": hex::encode(&event.payload),
            })
        });
        events.collect()
    }

    /// The same in version 0 of an attestation, where names and payloads are once more.
    pub(crate) fn runtime_events(&self) -> Value {
        let events = self.events.events().iter();
        events.map(|event| json!({ "event": event.event, "payload": hex::encode(&event.payload) })).collect()
    }

    /// What one gets who takes an empty digest for one of zeros, as dstack's clients do.
    pub(crate) fn replay_without_digests(&self) -> Register {
        let extend = |register: [u8; 48], _| {
            Sha384::new().chain_update(register).chain_update([0; 48]).finalize().into()
        };
        Register(self.events.events().iter().fold([0; 48], extend))
    }

    /// All that `Info` says.
    pub(crate) fn info(&self) -> Value {
        let [mrtd, rtmr0, rtmr1, rtmr2, rtmr3] = self.registers();
        let aggregated = mr_aggregated(&self.launch, &rtmr3, &Register::ZERO, &Register::ZERO);
        let device = hex::encode(Sha256::digest(b""));
        json!({
            "app_id": &self.compose_hash()[..40],
            "instance_id": hex::encode(self.instance.0),
            "app_cert": "",
            "app_name": self.config.name(),
            "device_id": device,
            "mr_aggregated": aggregated,
            "os_image_hash": "",
            "key_provider_info": r#"{"name":"none","id":""}"#,
            "compose_hash": self.compose_hash(),
            "vm_config": "{}",
            "cloud_vendor": "",
            "cloud_product": "",
            "tcb_info": {
                "mrtd": mrtd,
                "rtmr0": rtmr0,
                "rtmr1": rtmr1,
                "rtmr2": rtmr2,
                "rtmr3": rtmr3,
                "mr_aggregated": aggregated,
                "os_image_hash": "",
                "compose_hash": self.compose_hash(),
                "device_id": device,
                "event_log": self.event_log(true),
                "app_compose": self.document,
            },
        })
    }
}

/// The document with sorted keys and without spaces.
pub(crate) fn canonical(document: &str) -> String {
    fn sorted(value: Value) -> Value {
        match value {
            Value::Object(object) => {
                // Some builds of serde_json keep the order in which fields were put in.
                let parts: BTreeMap<String, Value> =
                    object.into_iter().map(|(name, part)| (name, sorted(part))).collect();
                Value::Object(parts.into_iter().collect())
            }
            Value::Array(list) => list.into_iter().map(sorted).collect(),
            leaf => leaf,
        }
    }
    sorted(serde_json::from_str(document).unwrap()).to_string()
}
