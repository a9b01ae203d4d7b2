//! What the agent knows, and what it answers to each call. No I/O.

use bytes::Bytes;
use casemate_measure::KeyProvider;
use casemate_measure::tdx::aggregated::mr_aggregated;
use serde::Serialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

use crate::arguments::{Arguments, RequestError, quoted};
use crate::certificate::{LocalCa, TlsKeyError};
use crate::error::AgentError;
use crate::event_log::{Form, api_events};
use crate::evidence::{Evidence, VM_CONFIG};
use crate::handover::Handover;
use crate::keys::{AppKey, KeyError};
use crate::messages::{Info, KeyRequest, Quote, TlsKeyRequest, Version};
use crate::tee::{Tee, TeeError};

/// The guest agent: keys of this boot, certificates and quotes.
#[derive(Debug)]
pub struct Agent {
    evidence: Evidence,
    app_key: AppKey,
    ca: LocalCa,
    /// The event log as `GetQuote` answers it.
    quote_event_log: String,
    /// Answers that cannot change after boot. `Info` holds the whole document: made once, so that many callers who
    /// read slowly share one copy.
    info: Bytes,
    version: Bytes,
}

/// Methods of dstack's agent that this version does not carry out.
const NOT_IMPLEMENTED: [&str; 5] = ["Attest", "EmitEvent", "GpuInfo", "Sign", "Verify"];

/// Why a call was refused. The text goes to the caller.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("unknown method: expected GetTlsKey, GetKey, GetQuote, Info or Version, found {}", quoted(.0))]
    UnknownMethod(String),
    #[error("not implemented in this version: {0}")]
    NotImplemented(&'static str),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    TlsKey(#[from] TlsKeyError),
    #[error(transparent)]
    Key(#[from] KeyError),
    /// dstack's words.
    #[error("Report data is too long: expected at most 64 bytes, found {0}")]
    ReportData(usize),
    #[error(transparent)]
    Tee(#[from] TeeError),
    #[error("the answer could not be encoded: {0}")]
    Encoding(#[from] serde_json::Error),
}

impl Agent {
    /// Opens the TEE and makes the keys of this boot.
    ///
    /// # Errors
    /// If the handover's parts disagree, the key provider is not `none`, or the TEE does not answer.
    pub fn new(handover: Handover) -> Result<Self, AgentError> {
        // Before the TEE is asked: a handover that contradicts itself is refused for what it is.
        handover.check()?;
        let tee = handover.tee.open(&handover.events)?;
        Self::with(handover, tee)
    }

    /// The same with a TEE that is open.
    pub(crate) fn with(handover: Handover, tee: Box<dyn Tee>) -> Result<Self, AgentError> {
        handover.check()?;
        if handover.key_provider != KeyProvider::None.event_payload() {
            return Err(AgentError::KeyProvider { found: quoted(&handover.key_provider) });
        }
        let evidence = Evidence::new(tee, handover.events.clone())?;
        let encoding = |error: serde_json::Error| AgentError::Evidence(error.to_string());
        let info = info(&handover, evidence.tee()).map_err(encoding)?;
        let version = Version { version: handover.version, rev: String::new() };
        let stripped = api_events(evidence.tee().boot_events(), evidence.events(), Form::Stripped);
        Ok(Self {
            app_key: AppKey::random()?,
            ca: LocalCa::new(&evidence, OffsetDateTime::now_utc())?,
            quote_event_log: serde_json::to_string(&stripped).map_err(encoding)?,
            info: encode(&info).map_err(encoding)?,
            version: encode(&version).map_err(encoding)?,
            evidence,
        })
    }

    /// The TEE it talks to.
    pub fn tee(&self) -> &dyn Tee {
        self.evidence.tee()
    }

    /// Reads what a caller wants. Nothing is carried out.
    pub(crate) fn request(method: &str, mut arguments: Arguments) -> Result<Request, CallError> {
        match method {
            "GetTlsKey" => tls_key(arguments),
            "GetKey" => Ok(Request::Key(KeyRequest {
                path: arguments.text("path")?,
                purpose: arguments.text("purpose")?,
                algorithm: arguments.text("algorithm")?,
            })),
            "GetQuote" => quote(arguments),
            "Info" => Ok(Request::Info),
            "Version" => Ok(Request::Version),
            other => match NOT_IMPLEMENTED.into_iter().find(|name| *name == other) {
                Some(name) => Err(CallError::NotImplemented(name)),
                None => Err(CallError::UnknownMethod(other.to_owned())),
            },
        }
    }

    /// Carries out one call and returns JSON. Waits for the TEE if [`Request::needs_quote`].
    pub(crate) fn carry_out(&self, request: &Request, now: OffsetDateTime) -> Result<Bytes, CallError> {
        match request {
            Request::TlsKey(request) => Ok(encode(&self.ca.issue(request, &self.evidence, now)?)?),
            Request::Key(request) => Ok(encode(&self.app_key.derive(request)?)?),
            Request::Quote(report_data) => Ok(encode(&Quote {
                quote: self.evidence.tee().quote(report_data)?,
                event_log: self.quote_event_log.clone(),
                report_data: report_data.to_vec(),
                vm_config: VM_CONFIG.to_owned(),
            })?),
            Request::Info => Ok(self.info.clone()),
            Request::Version => Ok(self.version.clone()),
        }
    }
}

/// A call that was understood.
#[derive(Debug)]
pub(crate) enum Request {
    TlsKey(TlsKeyRequest),
    Key(KeyRequest),
    Quote([u8; 64]),
    Info,
    Version,
}

impl Request {
    /// Whether the TEE is asked, which takes its time.
    pub(crate) const fn needs_quote(&self) -> bool {
        match self {
            Self::TlsKey(request) => request.usage_ra_tls,
            Self::Quote(_) => true,
            Self::Key(_) | Self::Info | Self::Version => false,
        }
    }
}

fn tls_key(mut arguments: Arguments) -> Result<Request, CallError> {
    let request = TlsKeyRequest {
        subject: arguments.text("subject")?,
        alt_names: arguments.texts("alt_names")?,
        usage_ra_tls: arguments.flag("usage_ra_tls")?,
        usage_server_auth: arguments.flag("usage_server_auth")?,
        usage_client_auth: arguments.flag("usage_client_auth")?,
        not_before: arguments.seconds("not_before")?,
        not_after: arguments.seconds("not_after")?,
    };
    if arguments.flag("with_app_info")? {
        return Err(CallError::NotImplemented("GetTlsKey with `with_app_info`"));
    }
    Ok(Request::TlsKey(request))
}

fn quote(mut arguments: Arguments) -> Result<Request, CallError> {
    let given = arguments.bytes("report_data")?;
    let mut report_data = [0; 64];
    let Some(head) = report_data.get_mut(..given.len()) else {
        return Err(CallError::ReportData(given.len()));
    };
    head.copy_from_slice(&given);
    Ok(Request::Quote(report_data))
}

fn encode(answer: &impl Serialize) -> Result<Bytes, serde_json::Error> {
    serde_json::to_vec(answer).map(Bytes::from)
}

fn info(handover: &Handover, tee: &dyn Tee) -> Result<Info, serde_json::Error> {
    let (launch, rtmr3) = (tee.launch(), tee.rtmr3());
    let owner = tee.owner();
    let aggregated = mr_aggregated(&launch, &rtmr3, &owner.id, &owner.config);
    // dstack: SHA-256 of a platform id that an unverified quote does not carry.
    let device_id = Sha256::digest(b"");
    let tcb_info = json!({
        "mrtd": launch.mrtd,
        "rtmr0": launch.rtmr0,
        "rtmr1": launch.rtmr1,
        "rtmr2": launch.rtmr2,
        "rtmr3": rtmr3,
        "mr_aggregated": aggregated,
        "os_image_hash": "",
        "compose_hash": handover.compose_hash,
        "device_id": hex::encode(device_id),
        "event_log": api_events(tee.boot_events(), &handover.events, Form::Whole),
        "app_compose": handover.document,
    });
    Ok(Info {
        app_id: handover.app_id.0.to_vec(),
        instance_id: handover.instance_id.map(|id| id.0.to_vec()).unwrap_or_default(),
        app_cert: String::new(),
        tcb_info: serde_json::to_string_pretty(&tcb_info)?,
        app_name: handover.app_name.clone(),
        device_id: device_id.to_vec(),
        mr_aggregated: aggregated.0.to_vec(),
        os_image_hash: Vec::new(),
        key_provider_info: handover.key_provider.clone(),
        compose_hash: handover.compose_hash.0.to_vec(),
        vm_config: VM_CONFIG.to_owned(),
        cloud_vendor: String::new(),
        cloud_product: String::new(),
    })
}
