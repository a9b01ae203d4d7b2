//! Another app of the same image, without a machine of its own: a simulated agent on the host, as `casemate-agent simulate`
//! runs it.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use casemate_agent::client::AgentClient;
use casemate_agent::{Agent, Handover, TeeHandover, TlsKeyRequest, boot_events, serve};
use casemate_measure::{AppId, EventLog, InstanceId, KeyProvider, LaunchRegisters, MeasuredConfig, Platform};
use casemate_mesh::CertificateKey;
use tokio::net::UnixListener;

use crate::images::Image;

/// The app id of a document: known before any image is.
pub(crate) fn app_of(document: &str) -> AppId {
    MeasuredConfig::parse("peer", document.as_bytes(), Platform::Appliance).unwrap().app_id()
}

/// A certificate of an app that runs a document on an image.
pub(crate) fn certificate(image: &Image, document: &str) -> CertificateKey {
    let measured = MeasuredConfig::parse("peer", document.as_bytes(), Platform::Appliance).unwrap();
    let (compose_hash, app_id) = (measured.compose_hash(), measured.app_id());
    let launch: LaunchRegisters =
        serde_json::from_slice(&fs::read(image.0.join("registers.json")).unwrap()).unwrap();
    let instance_id = InstanceId::derive(&[9; 20], &app_id);
    let agent = Agent::new(Handover {
        document: document.to_owned(),
        app_name: measured.name().to_owned(),
        compose_hash,
        app_id,
        instance_id: Some(instance_id),
        key_provider: KeyProvider::None.event_payload(),
        events: EventLog::new(boot_events(&compose_hash, &app_id, Some(&instance_id))),
        tee: TeeHandover::Simulator { launch },
        version: "0".to_owned(),
    });
    let until = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(48 * 3600);
    let request = TlsKeyRequest {
        subject: "peer".to_owned(),
        usage_ra_tls: true,
        usage_server_auth: true,
        usage_client_auth: true,
        not_after: Some(until.as_secs()),
        ..TlsKeyRequest::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("dstack.sock");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let key = runtime.block_on(async {
        tokio::spawn(serve(UnixListener::bind(&socket).unwrap(), agent.unwrap()));
        AgentClient::new(&socket).get_tls_key(request).await.unwrap()
    });
    CertificateKey::from_pem(&key.certificate_chain, key.key_pem.as_bytes()).unwrap()
}
