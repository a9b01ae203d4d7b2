//! What a policy says about the platform: its TCB (by `dcap-qvl`'s own policy), which machine, and how fresh.

use std::time::Duration;

use dcap_qvl::{Policy as _, QuotePolicy, TcbStatus};
use serde::{Deserialize, Serialize};

use crate::error::{Class, Reason, printable};
use crate::peer::AuthenticPeer;

/// Seconds of a day.
const DAY: u64 = 86_400;

/// What the platform's TCB may be. Every rule is `dcap-qvl`'s; the defaults are strict, but for the three properties that
/// nearly every server with TDX has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TcbRules {
    /// Acceptable statuses. `Revoked` never is.
    pub accept: Vec<TcbStatus>,
    /// Advisories (`INTEL-SA-…`) that must not apply.
    pub reject_advisories: Vec<String>,
    /// How long an accepted `OutOfDate` of the platform is borne after its TCB's date, days.
    pub platform_grace_days: u32,
    /// The same of the quoting enclave.
    pub qe_grace_days: u32,
    /// The lowest evaluation number of the TCB info: Intel's round of updates that must be known of.
    pub min_evaluation_number: Option<u32>,
    /// Whether packages may be added to the platform.
    pub allow_dynamic_platform: bool,
    /// Whether Intel's registration service may keep the platform's root keys.
    pub allow_cached_keys: bool,
    /// Whether cores may run two threads.
    pub allow_smt: bool,
}

impl Default for TcbRules {
    fn default() -> Self {
        Self {
            accept: vec![TcbStatus::UpToDate],
            reject_advisories: Vec::new(),
            platform_grace_days: 0,
            qe_grace_days: 0,
            min_evaluation_number: None,
            allow_dynamic_platform: true,
            allow_cached_keys: true,
            allow_smt: true,
        }
    }
}

impl TcbRules {
    pub(crate) fn judge(&self, peer: &AuthenticPeer, now: u64) -> Option<Reason> {
        if !self.accept.contains(&peer.tcb_status()) {
            let expected = self.accept.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
            let found = format!("{} {}", peer.tcb_status(), peer.advisory_ids().join(" "));
            return Some(Reason::new(Class::Tcb, "tcb.status", expected, found.trim_end()));
        }
        let error = self.as_policy(now).validate(&peer.claims).err()?;
        Some(Reason::new(
            Class::Tcb,
            "tcb",
            "what the policy's tcb rules allow",
            printable(&error.to_string()),
        ))
    }

    fn as_policy(&self, now: u64) -> QuotePolicy {
        let days = |days: u32| Duration::from_secs(u64::from(days).saturating_mul(DAY));
        // `strict` begins with UpToDate; whether that is accepted was asked above.
        let policy = QuotePolicy::strict(now)
            .reject_advisories(&self.reject_advisories)
            .platform_grace_period(days(self.platform_grace_days))
            .qe_grace_period(days(self.qe_grace_days))
            .allow_dynamic_platform(self.allow_dynamic_platform)
            .allow_cached_keys(self.allow_cached_keys)
            .allow_smt(self.allow_smt);
        let policy = self.accept.iter().fold(policy, |policy, status| policy.allow_status(*status));
        match self.min_evaluation_number {
            Some(number) => policy.min_tcb_eval_data_number(number),
            None => policy,
        }
    }

    pub(super) fn contradiction(&self) -> Option<(&'static str, String)> {
        let bears = |status: &TcbStatus| {
            matches!(status, TcbStatus::OutOfDate | TcbStatus::OutOfDateConfigurationNeeded)
        };
        if self.accept.is_empty() {
            return Some(("tcb.accept", "expected at least one status, found none".into()));
        }
        if self.accept.contains(&TcbStatus::Revoked) {
            return Some(("tcb.accept", "expected statuses that can be accepted, found Revoked".into()));
        }
        let graceless = self.platform_grace_days == 0 && self.qe_grace_days == 0;
        let late = self.accept.iter().find(|status| bears(status)).filter(|_| graceless)?;
        let problem = format!(
            "expected a platform_grace_days or qe_grace_days beside {late} (without one nothing meets it), found 0"
        );
        Some(("tcb.accept", problem))
    }
}

/// One acceptable machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Platform {
    /// What a person calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// PPID: 16 bytes, hex. `null`: not compared.
    #[serde(default, with = "hex16", skip_serializing_if = "Option::is_none")]
    pub ppid: Option<[u8; 16]>,
    /// Platform instance id: 16 bytes, hex. `null`: not compared.
    #[serde(default, with = "hex16", skip_serializing_if = "Option::is_none")]
    pub piid: Option<[u8; 16]>,
}

/// 16 bytes in hex, or null.
mod hex16 {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    #[expect(clippy::ref_option, reason = "serde gives a reference to the field")]
    pub(super) fn serialize<S: Serializer>(bytes: &Option<[u8; 16]>, to: S) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => to.serialize_str(&hex::encode(bytes)),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<[u8; 16]>, D::Error> {
        let Some(text) = Option::<String>::deserialize(from)? else { return Ok(None) };
        let mut bytes = [0; 16];
        hex::decode_to_slice(&text, &mut bytes)
            .map_err(|_| D::Error::custom(format_args!("expected 32 hex digits, found {text:?}")))?;
        Ok(Some(bytes))
    }
}

pub(super) fn platform(platforms: &[Platform], peer: &AuthenticPeer) -> Option<Reason> {
    let fits = |platform: &Platform| {
        platform.ppid.is_none_or(|ppid| peer.ppid() == ppid)
            && platform.piid.is_none_or(|piid| peer.platform_instance_id() == Some(&piid))
    };
    if platforms.is_empty() || platforms.iter().any(fits) {
        return None;
    }
    let shown = |platform: &Platform| {
        let ids = [("PPID", platform.ppid), ("PIID", platform.piid)];
        let ids = ids.into_iter().filter_map(|(name, id)| Some(format!("{name} {}", hex::encode(id?))));
        ids.collect::<Vec<_>>().join(" and ")
    };
    let expected = platforms.iter().map(shown).collect::<Vec<_>>().join(" or ");
    let piid = peer.platform_instance_id().map_or_else(|| "none".into(), hex::encode);
    let found = format!("PPID {} and PIID {piid}", hex::encode(peer.ppid()));
    Some(Reason::new(Class::Platform, "platform", expected, found))
}

/// How fresh evidence must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Freshness {
    /// The age of the oldest of TCB info, QE identity and PCK CRL, days. Each also expires by itself.
    pub max_collateral_age_days: u32,
    /// Whether evidence must answer a challenge of the verifier's: it cannot be relayed, or be of yesterday.
    pub challenge: bool,
}

impl Default for Freshness {
    fn default() -> Self {
        Self { max_collateral_age_days: 30, challenge: false }
    }
}

impl Freshness {
    pub(crate) fn judge(&self, peer: &AuthenticPeer, now: u64) -> Option<Reason> {
        // The simulator's is fixed, and dated by whoever made it.
        if peer.tee() != crate::Tee::Tdx {
            return None;
        }
        let issued = peer.collateral_times().oldest_issue;
        let limit = u64::from(self.max_collateral_age_days).saturating_mul(DAY);
        let age = now.saturating_sub(issued);
        (age > limit).then(|| {
            let expected = format!("signed within {} days", self.max_collateral_age_days);
            let found =
                format!("{} days old (since {issued}, Unix seconds)", age.checked_div(DAY).unwrap_or(0));
            Reason::new(Class::Freshness, "collateral", expected, found)
        })
    }
}
