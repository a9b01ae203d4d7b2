//! The mesh proxy's process.

use std::fs::File;
use std::io::Write as _;
use std::net::TcpListener;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use casemate_agent::TlsKeyRequest;
use casemate_agent::client::AgentClient;
use casemate_mesh::{CertificateKey, Config, IdentitySource, Mesh, SourceError};
use casemate_verify::evidence::{self, Detected, Evidence};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{report, report_ready_and_beat, trace};
use crate::confine::{self, Kernel, Profile, Reach};
use crate::handover::Proven;
use crate::layout::{AGENT_SOCKET, AGENT_SOCKET_DIRECTORY};
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
    let reach = reach(&config);
    let mesh = Mesh::open(config, listeners, logs)?.with_agent(AGENT_SOCKET);
    reach.enter(Kernel::Pinned)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    // Before the first byte of a peer, not only before it says that it is ready.
    confine::enter(Profile::Mesh)?;
    let report = report().context("report")?;
    let agent = Agent { report: report.try_clone().context("report")? };
    let Err(error) = runtime.block_on(mesh.run(agent, || {
        if let Err(error) = report_ready_and_beat(report) {
            tracing::error!(%error, "could not report readiness");
        }
    }));
    Err(error.into())
}

/// The agent, and the ports of services, targets and the PCCS. Its own ports are open by then.
fn reach(config: &Config) -> Reach {
    let services = config.backends.iter().map(|backend| backend.to.port());
    let targets = config.targets.values().map(std::net::SocketAddr::port);
    let pccs = config.collateral.pccs.iter().map(|pccs| pccs.address.port());
    services
        .chain(targets)
        .chain(pccs)
        .fold(Reach::nothing().call(AGENT_SOCKET_DIRECTORY), Reach::connect_tcp)
}

/// The guest agent behind its socket, and PID 1 behind the report descriptor.
struct Agent {
    report: File,
}

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

    async fn attest(&self, report_data: [u8; 64]) -> Result<Vec<u8>, SourceError> {
        let answer = AgentClient::new(AGENT_SOCKET).get_quote(&report_data).await?;
        match evidence::detect(&serde_json::to_vec(&answer)?)? {
            Detected::Evidence(Evidence::Attestation(attestation), _) => Ok(attestation.encode_v0()),
            _ => Err("GetQuote: expected a quote with its event log".into()),
        }
    }

    fn it_is_at_least(&self, time: u64) {
        // One message, or none: the descriptor does not block. The next collateral proves it again.
        if let Err(error) = (&self.report).write_all(&Proven(Duration::from_secs(time)).encode()) {
            tracing::warn!(%error, "PID 1 was not told what time collateral proves");
        }
    }
}
