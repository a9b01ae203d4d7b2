//! The answer, for a person and for a program.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use casemate_measure::{MrConfigId, Register};
use casemate_verify::{AuthenticPeer, Reason, TcbStatus, Tee, VerifiedPeer, VerifyError};
use serde::Serialize;

use super::exit::Exit;

/// What was found out.
pub(super) enum Verdict {
    Trusted(VerifiedPeer),
    NotTrusted(AuthenticPeer, Vec<Reason>),
    /// Authentic, and no policy was given.
    NotJudged(AuthenticPeer),
    NotAuthentic(VerifyError),
    Undecided(VerifyError),
}

impl Verdict {
    pub(super) const fn exit(&self) -> Exit {
        match self {
            Self::Trusted(_) => Exit::Trusted,
            Self::NotTrusted(..) | Self::NotJudged(_) | Self::NotAuthentic(_) => Exit::NotTrusted,
            Self::Undecided(_) => Exit::Undecided,
        }
    }

    /// The word in the JSON form.
    const fn word(&self) -> &'static str {
        match self {
            Self::Trusted(_) => "trusted",
            Self::NotTrusted(..) => "not-trusted",
            Self::NotJudged(_) => "not-judged",
            Self::NotAuthentic(_) => "not-authentic",
            Self::Undecided(_) => "undecided",
        }
    }

    fn peer(&self) -> Option<&AuthenticPeer> {
        match self {
            Self::Trusted(peer) => Some(peer),
            Self::NotTrusted(peer, _) | Self::NotJudged(peer) => Some(peer),
            Self::NotAuthentic(_) | Self::Undecided(_) => None,
        }
    }

    fn tags(&self) -> &[String] {
        match self {
            Self::Trusted(peer) => peer.tags(),
            _ => &[],
        }
    }

    fn reasons(&self) -> &[Reason] {
        match self {
            Self::NotTrusted(_, reasons) => reasons,
            _ => &[],
        }
    }

    fn error(&self) -> Option<String> {
        match self {
            Self::NotAuthentic(error) | Self::Undecided(error) => Some(advised(error)),
            _ => None,
        }
    }
}

/// An error with what to do about it, where there is something.
fn advised(error: &VerifyError) -> String {
    let advice = match error {
        VerifyError::NoCollateral { .. } => "; pass --collateral FILE",
        _ if error.class() == casemate_verify::Class::Root && cfg!(feature = "simulator") => {
            "; see --trust-simulator"
        }
        _ => "",
    };
    format!("{error}{advice}")
}

pub(super) struct Report<'a> {
    pub(super) target: &'a str,
    pub(super) verdict: &'a Verdict,
}

impl Report<'_> {
    /// The stable form that the README describes.
    pub(super) fn json(&self) -> String {
        let report = JsonReport {
            version: 1,
            target: self.target,
            verdict: self.verdict.word(),
            error: self.verdict.error(),
            reasons: self.verdict.reasons(),
            peer: self.verdict.peer().map(|peer| JsonPeer::of(peer, self.verdict.tags())),
        };
        // Strings, numbers and lists always serialise.
        serde_json::to_string_pretty(&report).map_or_else(|error| error.to_string(), |text| text + "\n")
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: &str| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name:<14}{value}");
        };
        line("target", &self.target.escape_debug().to_string());
        if let Some(peer) = self.verdict.peer() {
            let peer = JsonPeer::of(peer, self.verdict.tags());
            let tee = match peer.tee {
                Tee::Tdx => "Intel TDX",
                Tee::Simulator => "SIMULATED: its keys are public, this proves nothing about a machine",
            };
            line("tee", tee);
            line("tcb status", &[format!("{:?}", peer.tcb_status), peer.advisory_ids.join(" ")].join(" "));
            line("app id", &peer.app_id);
            line("compose hash", &peer.compose_hash);
            line("instance", peer.instance_id.as_deref().unwrap_or("none"));
            line("key provider", &peer.key_provider);
            let registers = [
                ("mrtd", &peer.registers.mrtd),
                ("rtmr0", &peer.registers.rtmr0),
                ("rtmr1", &peer.registers.rtmr1),
                ("rtmr2", &peer.registers.rtmr2),
                ("rtmr3", &peer.registers.rtmr3),
            ];
            for (name, register) in registers {
                line(name, register.as_deref().unwrap_or("not measured"));
            }
            line("mrconfigid", peer.registers.mrconfigid.as_deref().unwrap_or("not bound"));
            line("key pin", &peer.spki_pin);
            if matches!(self.verdict, Verdict::Trusted(_)) {
                line("tags", &peer.tags.join(" "));
            }
        }
        match self.verdict {
            Verdict::Trusted(_) => line("verdict", "trusted"),
            Verdict::NotTrusted(..) => line("verdict", "NOT TRUSTED"),
            Verdict::NotJudged(_) => line("verdict", "NOT TRUSTED: authentic, not judged (no --policy)"),
            Verdict::NotAuthentic(_) => line("verdict", "NOT TRUSTED: not authentic"),
            Verdict::Undecided(_) => line("verdict", "UNDECIDED"),
        }
        for reason in self.verdict.reasons() {
            line("", &reason.to_string());
        }
        if let Some(error) = self.verdict.error() {
            line("", &error);
        }
        text
    }
}

#[derive(Serialize)]
struct JsonReport<'a> {
    version: u32,
    target: &'a str,
    verdict: &'static str,
    error: Option<String>,
    reasons: &'a [Reason],
    peer: Option<JsonPeer<'a>>,
}

#[derive(Serialize)]
struct JsonPeer<'a> {
    tee: Tee,
    tcb_status: TcbStatus,
    advisory_ids: &'a [String],
    app_id: String,
    compose_hash: String,
    instance_id: Option<String>,
    key_provider: String,
    registers: JsonRegisters,
    tags: &'a [String],
    spki_pin: String,
    certificate_not_after: u64,
    collateral_expires: u64,
}

/// Hex, or null for what was not measured.
#[derive(Serialize)]
struct JsonRegisters {
    mrtd: Option<String>,
    rtmr0: Option<String>,
    rtmr1: Option<String>,
    rtmr2: Option<String>,
    rtmr3: Option<String>,
    mrconfigid: Option<String>,
}

impl<'a> JsonPeer<'a> {
    fn of(peer: &'a AuthenticPeer, tags: &'a [String]) -> Self {
        let launch = peer.launch();
        let measured = |register: Register| (!register.is_zero()).then(|| register.to_string());
        let bound = launch.mrconfigid != MrConfigId::ZERO;
        Self {
            tee: peer.tee(),
            tcb_status: peer.tcb_status(),
            advisory_ids: peer.advisory_ids(),
            app_id: peer.app_id().to_string(),
            compose_hash: peer.compose_hash().to_string(),
            instance_id: peer.instance_id().map(|id| id.to_string()),
            key_provider: peer.key_provider().to_string(),
            registers: JsonRegisters {
                mrtd: measured(launch.mrtd),
                rtmr0: measured(launch.rtmr0),
                rtmr1: measured(launch.rtmr1),
                rtmr2: measured(launch.rtmr2),
                rtmr3: measured(peer.rtmr3()),
                mrconfigid: bound.then(|| launch.mrconfigid.to_string()),
            },
            tags,
            // As curl's --pinnedpubkey takes it.
            spki_pin: peer
                .key()
                .map_or_else(String::new, |key| format!("sha256//{}", STANDARD.encode(key.spki_sha256))),
            certificate_not_after: peer.key().map_or(0, |key| key.not_after),
            collateral_expires: peer.collateral_expires(),
        }
    }
}
