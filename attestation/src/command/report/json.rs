//! The JSON form. `verdict.schema.json` describes it, and a test holds what is printed to it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use casemate_measure::{MrConfigId, Register};
use casemate_verify::{AuthenticPeer, Binding, Reason, TcbStatus, Tee};
use serde::Serialize;

use super::Report;

pub(super) fn of(report: &Report<'_>) -> String {
    let verdict = report.verdict;
    let json = JsonReport {
        version: 1,
        target: report.target,
        verdict: verdict.word(),
        error: verdict.error(),
        reasons: verdict.reasons(),
        peer: verdict.peer().map(|peer| JsonPeer::of(peer, verdict.tags())),
    };
    // Strings, numbers and lists always serialise.
    serde_json::to_string_pretty(&json).map_or_else(|error| error.to_string(), |text| text + "\n")
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

/// Who is there, in words: what the table shows, too.
#[derive(Serialize)]
pub(super) struct JsonPeer<'a> {
    pub(super) tee: Tee,
    binding: &'static str,
    tcb_status: TcbStatus,
    advisory_ids: &'a [String],
    fmspc: String,
    ppid: String,
    piid: Option<String>,
    mr_seam: Option<String>,
    pub(super) app_id: String,
    pub(super) compose_hash: String,
    pub(super) instance_id: Option<String>,
    pub(super) key_provider: String,
    pub(super) os_image_hash: Option<String>,
    pub(super) registers: JsonRegisters,
    pub(super) tags: &'a [String],
    pub(super) spki_pin: Option<String>,
    certificate_not_after: Option<u64>,
    collateral: JsonCollateral,
    collateral_expires: u64,
}

/// Hex, or null for what was not measured.
#[derive(Serialize)]
pub(super) struct JsonRegisters {
    pub(super) mrtd: Option<String>,
    pub(super) rtmr0: Option<String>,
    pub(super) rtmr1: Option<String>,
    pub(super) rtmr2: Option<String>,
    pub(super) rtmr3: Option<String>,
    pub(super) mrconfigid: Option<String>,
}

/// When it was signed, Unix seconds.
#[derive(Serialize)]
struct JsonCollateral {
    oldest_issue: u64,
    newest_issue: u64,
    next_update: u64,
    evaluation_number: u32,
}

impl<'a> JsonPeer<'a> {
    pub(super) fn of(peer: &'a AuthenticPeer, tags: &'a [String]) -> Self {
        let launch = peer.launch();
        let measured = |register: Register| (!register.is_zero()).then(|| register.to_string());
        let bound = launch.mrconfigid != MrConfigId::ZERO;
        let times = peer.collateral_times();
        Self {
            tee: peer.tee(),
            binding: match peer.binding() {
                Binding::Key(_) => "key",
                Binding::Challenge(..) => "challenge",
                Binding::ReportData => "report-data",
                Binding::Nothing => "nothing",
            },
            tcb_status: peer.tcb_status(),
            advisory_ids: peer.advisory_ids(),
            fmspc: hex::encode(peer.fmspc()),
            ppid: hex::encode(peer.ppid()),
            piid: peer.platform_instance_id().map(hex::encode),
            mr_seam: measured(peer.report().mr_seam),
            app_id: peer.app_id().to_string(),
            compose_hash: peer.compose_hash().to_string(),
            instance_id: peer.instance_id().map(|id| id.to_string()),
            key_provider: peer.key_provider().to_string(),
            os_image_hash: peer.os_image_hash().map(|hash| hash.to_string()),
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
            spki_pin: peer.key().map(|key| format!("sha256//{}", STANDARD.encode(key.spki_sha256))),
            certificate_not_after: peer.key().map(|key| key.not_after),
            collateral: JsonCollateral {
                oldest_issue: times.oldest_issue,
                newest_issue: times.newest_issue,
                next_update: times.next_update,
                evaluation_number: times.evaluation_number,
            },
            collateral_expires: peer.collateral_expires(),
        }
    }
}
