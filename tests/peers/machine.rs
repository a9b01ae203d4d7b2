//! A booted machine as its peers see it: a measured document on an image, and the agent that speaks for both.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use casemate_agent::client::AgentClient;
use casemate_agent::{Agent, Handover, TeeHandover, TlsKeyRequest, boot_events, serve};
use casemate_measure::section::Section;
use casemate_measure::tdx::rtmr2;
use casemate_measure::{
    AppId, ComposeHash, EventLog, InstanceId, KeyProvider, LaunchRegisters, MeasuredConfig, Platform,
};
use casemate_mesh::{CertificateKey, IdentitySource, SourceError};
use casemate_verify::evidence::{self, Detected, Evidence};
use tempfile::TempDir;
use tokio::net::UnixListener;

/// A document of `configs/`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Document {
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
}

macro_rules! document {
    ($name:literal) => {
        Document { name: $name, text: include_str!(concat!("../../configs/", $name)) }
    };
}

/// Serves one backend to any app of its own image.
pub(crate) const DEMO: Document = document!("demo.app-compose.json");
/// Another that does the same: another app.
pub(crate) const EXTERNAL: Document = document!("demo-external.app-compose.json");
/// Serves nothing, calls others.
pub(crate) const CALLER: Document = document!("demo-caller.app-compose.json");

/// The launch registers of an image whose initramfs is these bytes: as `casemate-image` writes them in this version.
pub(crate) fn image_with(initramfs: &[u8]) -> LaunchRegisters {
    LaunchRegisters { rtmr2: rtmr2::register("panic=-1", initramfs), ..LaunchRegisters::ZERO }
}

/// The image that everybody good runs.
pub(crate) fn image() -> LaunchRegisters {
    image_with(b"the good initramfs")
}

/// A kernel and initramfs of somebody's own, in the same kind of machine.
pub(crate) fn another_image() -> LaunchRegisters {
    image_with(b"an initramfs that does as its owner likes")
}

/// A running simulated machine. It ends with the test's runtime.
#[derive(Debug)]
pub(crate) struct Machine {
    _folder: TempDir,
    agent: AgentClient,
    issued: Issued,
    section: Section,
    pub(crate) launch: LaunchRegisters,
    pub(crate) app: AppId,
    pub(crate) compose: ComposeHash,
}

impl Machine {
    /// Boots a document on an image: parses it, extends the events of the boot, starts the agent.
    pub(crate) fn boot(document: Document, launch: LaunchRegisters) -> Self {
        let text = document.text;
        let measured = MeasuredConfig::parse(document.name, text.as_bytes(), Platform::Appliance).unwrap();
        let (compose_hash, app_id) = (measured.compose_hash(), measured.app_id());
        let instance_id = InstanceId::derive(&[9; 20], &app_id);
        let agent = Agent::new(Handover {
            document: text.to_owned(),
            app_name: measured.name().to_owned(),
            compose_hash,
            app_id,
            instance_id: Some(instance_id),
            key_provider: KeyProvider::None.event_payload(),
            events: EventLog::new(boot_events(&compose_hash, &app_id, Some(&instance_id))),
            tee: TeeHandover::Simulator { launch },
            version: "0".to_owned(),
        });
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("dstack.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(serve(listener, agent.unwrap()));
        Self {
            _folder: folder,
            agent: AgentClient::new(socket),
            issued: Issued::default(),
            section: measured.section().clone(),
            launch,
            app: app_id,
            compose: compose_hash,
        }
    }

    pub(crate) const fn section(&self) -> &Section {
        &self.section
    }

    /// Its agent, as the mesh of the guest asks it.
    pub(crate) fn identity(&self) -> Identity {
        Identity(self.agent.clone(), Arc::clone(&self.issued))
    }

    /// The agent itself.
    pub(crate) const fn agent(&self) -> &AgentClient {
        &self.agent
    }

    /// Every private key, in PEM, that [`Identity`] has asked for.
    pub(crate) fn issued(&self) -> Vec<String> {
        self.issued.lock().unwrap().clone()
    }

    /// A fresh certificate of its agent.
    pub(crate) async fn certificate(&self) -> CertificateKey {
        self.identity().certificate().await.unwrap()
    }
}

/// Certificates from an agent's socket.
#[derive(Clone, Debug)]
pub(crate) struct Identity(AgentClient, Issued);

type Issued = Arc<Mutex<Vec<String>>>;

impl IdentitySource for Identity {
    async fn certificate(&self) -> Result<CertificateKey, SourceError> {
        let key = self.0.get_tls_key(TlsKeyRequest {
            subject: "casemate-mesh".to_owned(),
            usage_ra_tls: true,
            usage_server_auth: true,
            usage_client_auth: true,
            not_after: Some(now() + Duration::from_secs(48 * 3600).as_secs()),
            ..TlsKeyRequest::default()
        });
        let key = key.await?;
        self.1.lock().unwrap().push(key.key_pem.clone());
        CertificateKey::from_pem(&key.certificate_chain, key.key_pem.as_bytes())
    }

    async fn attest(&self, report_data: [u8; 64]) -> Result<Vec<u8>, SourceError> {
        let answer = serde_json::to_vec(&self.0.get_quote(&report_data).await?)?;
        match evidence::detect(&answer)? {
            Detected::Evidence(Evidence::Attestation(attestation), _) => Ok(attestation.encode_v0()),
            other => Err(format!("{other:?}").into()),
        }
    }
}

/// Unix seconds.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}
