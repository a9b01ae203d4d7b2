//! What PID 1 gives the agent process: one JSON document on a descriptor.

use std::path::PathBuf;

#[cfg(feature = "simulator")]
use casemate_measure::LaunchRegisters;
use casemate_measure::{AppId, ComposeHash, EventLog, InstanceId};
use serde::{Deserialize, Serialize};

use crate::error::AgentError;
use crate::tdx::Paths;

/// Everything the agent serves that was decided at boot. The agent checks that its parts agree with each other and
/// refuses to start if they do not: what it says about the app is then what RTMR3 says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handover {
    /// The text of `app-compose.json`, byte for byte as it was hashed.
    pub document: String,
    /// dstack's `name`.
    pub app_name: String,
    /// SHA-256 of the document.
    pub compose_hash: ComposeHash,
    /// The app id that was extended.
    pub app_id: AppId,
    /// The instance id that was extended; `None` for an app without one.
    pub instance_id: Option<InstanceId>,
    /// The payload of the `key-provider` event.
    pub key_provider: String,
    /// Every event that was extended into RTMR3, in order.
    pub events: EventLog,
    /// How to reach the TEE.
    pub tee: TeeHandover,
    /// What `Version` answers.
    pub version: String,
}

/// Which TEE the agent talks to, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
#[non_exhaustive]
pub enum TeeHandover {
    /// Intel TDX.
    Tdx {
        /// The folder under which the kernel's files are: `/`.
        root: PathBuf,
        /// The firmware's event log, which only root may read; empty if there is none.
        #[serde(with = "hex::serde")]
        boot_log: Vec<u8>,
    },
    /// The simulated TEE of the development image.
    #[cfg(feature = "simulator")]
    Simulator {
        /// What the VM showed at launch.
        launch: LaunchRegisters,
    },
}

impl TeeHandover {
    /// The devices, and the folders of files, that the agent opens to reach it. Files of their folders that it may not write
    /// are not its own.
    pub fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::Tdx { root, .. } => {
                let paths = Paths::under(root);
                vec![paths.device(), paths.report()]
            }
            #[cfg(feature = "simulator")]
            Self::Simulator { .. } => Vec::new(),
        }
    }
}

impl Handover {
    /// Checks that the parts agree: each of them is also in the event log, which RTMR3 binds.
    ///
    /// # Errors
    /// [`AgentError::Handover`] with the first field that disagrees.
    pub fn check(&self) -> Result<(), AgentError> {
        let logged = |event: &str| self.events.find(event).map(|event| event.payload.as_slice());
        let agree = |field, expected: &[u8], found: Option<&[u8]>| match found {
            Some(found) if found == expected => Ok(()),
            other => Err(AgentError::Handover {
                field,
                expected: hex::encode(expected),
                found: other.map_or_else(|| "no such event".into(), hex::encode),
            }),
        };
        agree("compose_hash", &ComposeHash::of(self.document.as_bytes()).0, Some(&self.compose_hash.0))?;
        agree("events.compose-hash", &self.compose_hash.0, logged("compose-hash"))?;
        agree("events.app-id", &self.app_id.0, logged("app-id"))?;
        let instance = self.instance_id.map(|id| id.0);
        agree("events.instance-id", instance.as_ref().map_or(&[][..], |id| id), logged("instance-id"))?;
        agree("events.key-provider", self.key_provider.as_bytes(), logged("key-provider"))
    }
}
