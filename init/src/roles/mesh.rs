//! The mesh proxy's process.

use std::fs::File;
use std::net::TcpListener;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use casemate_agent::TlsKeyRequest;
use casemate_agent::client::AgentClient;
use casemate_mesh::{CertificateKey, Config, IdentitySource, SourceError};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{report_ready, trace};
use crate::layout::AGENT_SOCKET;
use crate::{handover, sys};

/// Twice the day after which the mesh asks for a new one.
const LIFETIME: Duration = Duration::from_secs(48 * 3600);

pub(super) fn run() -> anyhow::Result<ExitCode> {
    trace();
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("RLIMIT_NOFILE")?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("RLIMIT_NOFILE")?;
    let config: Config = handover::read().context("handover")?;
    let mut numbers = handover::FIRST_EXTRA..;
    let mut extra = |what: &str, of: &str| {
        let number = numbers.next().context("descriptors")?;
        sys::inherited(number).with_context(|| format!("{what} of {of}"))
    };
    let mut listeners = Vec::new();
    for outbound in &config.outbound {
        listeners.push(TcpListener::from(extra("outbound listener", &outbound.service)?));
    }
    let mut logs = Vec::new();
    for name in &config.logs {
        logs.push(File::from(extra("log ring", name)?));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let Err(error) = runtime.block_on(casemate_mesh::run(config, listeners, logs, Agent, || {
        if let Err(error) = report_ready() {
            tracing::error!(%error, "could not report readiness");
        }
    }));
    Err(error.into())
}

/// The guest agent behind its socket.
struct Agent;

impl IdentitySource for Agent {
    async fn certificate(&self) -> Result<CertificateKey, SourceError> {
        let until = SystemTime::now().duration_since(UNIX_EPOCH)?.saturating_add(LIFETIME);
        let request = TlsKeyRequest {
            subject: "casemate-mesh".into(),
            usage_ra_tls: true,
            usage_server_auth: true,
            usage_client_auth: true,
            not_after: Some(until.as_secs()),
            ..TlsKeyRequest::default()
        };
        let key = AgentClient::new(AGENT_SOCKET).get_tls_key(request).await?;
        CertificateKey::from_pem(&key.certificate_chain, key.key_pem.as_bytes())
    }
}
