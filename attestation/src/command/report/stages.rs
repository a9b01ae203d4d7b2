//! The checks in their order, and how each ended.

use casemate_measure::Register;
use casemate_verify::{AuthenticPeer, Binding, Class, Policy, Reason, Tee};

use super::{Kind, Report, rfc3339};
use crate::command::verdict::Verdict;

/// Seconds of a day.
const DAY: u64 = 86_400;

/// A check, or several that a person takes for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Form,
    Validity,
    Binding,
    Root,
    Quote,
    Collateral,
    Log,
    BootEvents,
    Identity,
    Image,
    App,
    KeyProvider,
    Tcb,
    Module,
    Platform,
    Freshness,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Held,
    Failed,
    /// Nothing asked for it, or it cannot be told from what failed beside it.
    NotJudged,
    /// A check before it failed.
    NotReached,
}

/// One line of the table, or more.
pub(super) struct Line {
    pub(super) stage: Stage,
    pub(super) mark: Mark,
    pub(super) text: Vec<String>,
}

use Stage::{
    App, Binding as Bound, BootEvents, Collateral, Form, Freshness, Identity, Image, KeyProvider, Log,
    Module, Platform, Quote, Root, Tcb, Validity,
};

/// A certificate's report data are compared first, other evidence's last.
const OF_CERTIFICATE: &[Stage] = &[
    Form,
    Validity,
    Bound,
    Root,
    Quote,
    Collateral,
    Log,
    BootEvents,
    Identity,
    Image,
    App,
    KeyProvider,
    Tcb,
    Module,
    Platform,
    Freshness,
];
const OF_QUOTE: &[Stage] = &[
    Form,
    Root,
    Quote,
    Collateral,
    Log,
    BootEvents,
    Identity,
    Bound,
    Image,
    App,
    KeyProvider,
    Tcb,
    Module,
    Platform,
    Freshness,
];

impl Stage {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Form => "form",
            Validity => "validity",
            Bound => "binding",
            Root => "root",
            Quote => "quote",
            Collateral => "collateral",
            Log => "event log",
            BootEvents => "boot events",
            Identity => "identity",
            Image => "image",
            App => "app",
            KeyProvider => "key provider",
            Tcb => "tcb",
            Module => "module",
            Platform => "platform",
            Freshness => "freshness",
        }
    }

    /// Where a reason belongs. Of a quote that is not authentic nothing about the platform was judged by a policy: `dcap-qvl`
    /// refused it.
    pub(super) const fn of(class: Class, authentic: bool) -> Self {
        match class {
            Class::Form | Class::NotImplemented => Form,
            Class::Validity => Validity,
            Class::Binding => Bound,
            Class::Root => Root,
            Class::Collateral => Collateral,
            Class::Log => Log,
            Class::BootEvent => BootEvents,
            Class::Identity => Identity,
            Class::Image | Class::Policy => Image,
            Class::App => App,
            Class::KeyProvider => KeyProvider,
            Class::Tcb if authentic => Tcb,
            Class::Module if authentic => Module,
            Class::Platform if authentic => Platform,
            Class::Freshness => Freshness,
            _ => Quote,
        }
    }

    /// Whether a policy judges it, not the verifier.
    const fn is_of_policy(self) -> bool {
        matches!(self, Image | App | KeyProvider | Tcb | Module | Platform | Freshness)
    }

    /// One call of `dcap-qvl` judges these two together.
    const fn is_of_dcap(self) -> bool {
        matches!(self, Quote | Collateral)
    }

    /// What it means that it held, where no more is known.
    const fn meaning(self) -> &'static str {
        match self {
            Form => "it can be read",
            Validity => "the certificate is valid at that time",
            Bound => "the report data are for the certificate's key",
            Root => "the quote's certificates lead to a trusted root",
            Quote => "signed, not revoked, no debug",
            Collateral => "signed, for such a platform, valid at that time",
            Log => "it leads to the quote's registers",
            BootEvents => "each known, once, in its place",
            Identity => "app id and MRCONFIGID belong to the document",
            Image | App | KeyProvider | Tcb | Module | Platform | Freshness => "acceptable",
        }
    }
}

/// Every check of a report; none where there was nothing to check.
pub(super) fn lines(report: &Report<'_>) -> Vec<Line> {
    let verdict = report.verdict;
    let nobody = matches!(verdict, Verdict::Undecided(..)) && report.kind == Kind::Unread;
    if nobody {
        return Vec::new();
    }
    let authentic = verdict.peer().is_some();
    let order = if report.kind.certificate().is_some() || report.kind == Kind::Unread {
        OF_CERTIFICATE
    } else {
        OF_QUOTE
    };
    let reasons_of = |stage: Stage| -> Vec<&Reason> {
        verdict.reasons().iter().filter(|reason| Stage::of(reason.class, authentic) == stage).collect()
    };
    let first = order.iter().position(|stage| !reasons_of(*stage).is_empty()).filter(|_| !authentic);
    let line = |(index, stage): (usize, &Stage)| {
        let stage = *stage;
        let reasons = reasons_of(stage);
        let failed = first.and_then(|first| order.get(first).copied());
        let (mark, text) = if !reasons.is_empty() {
            (Mark::Failed, reasons.iter().map(ToString::to_string).collect())
        } else if failed.is_some_and(|failed| failed.is_of_dcap() && stage.is_of_dcap()) {
            (Mark::NotJudged, Vec::new())
        } else if first.is_some_and(|first| index > first) {
            (Mark::NotReached, Vec::new())
        } else {
            let (mark, text) = held(stage, report);
            (mark, vec![text])
        };
        Line { stage, mark, text }
    };
    order.iter().enumerate().map(line).collect()
}

/// What held, with its value; or what nobody asked for.
fn held(stage: Stage, report: &Report<'_>) -> (Mark, String) {
    let judged = match report.policy {
        _ if !stage.is_of_policy() => true,
        None => false,
        Some(policy) => has_rule(policy, stage, report),
    };
    let bound_to_nothing =
        stage == Bound && report.verdict.peer().is_some_and(|peer| *peer.binding() == Binding::Nothing);
    let mark = if judged && !bound_to_nothing { Mark::Held } else { Mark::NotJudged };
    let text = match report.verdict.peer() {
        _ if stage == Form || stage == Validity => of_kind(stage, report.kind),
        Some(peer) => value(stage, peer, report),
        None => stage.meaning().to_owned(),
    };
    (mark, text)
}

/// Whether a policy has a rule for it.
fn has_rule(policy: &Policy, stage: Stage, report: &Report<'_>) -> bool {
    match stage {
        Module => !policy.tdx_modules().is_empty(),
        Platform => !policy.platforms().is_empty(),
        // The simulator's collateral is fixed.
        Freshness => {
            policy.demands_challenge() || report.verdict.peer().is_some_and(|peer| peer.tee() == Tee::Tdx)
        }
        _ => true,
    }
}

fn of_kind(stage: Stage, kind: Kind) -> String {
    let firmware = if kind.has_firmware_log() { ", the firmware's event log beside it" } else { "" };
    match (stage, kind) {
        (Validity, kind) => kind.certificate().map_or_else(String::new, |shown| {
            format!("from {} to {}", rfc3339(shown.not_before), rfc3339(shown.not_after))
        }),
        (_, Kind::Certificate(shown)) => format!("RA-TLS certificate, chain of {}{firmware}", shown.chain),
        (_, Kind::Challenge(shown)) => {
            format!("answer to a challenge, certificate with a chain of {}", shown.chain)
        }
        (_, Kind::Attestation { .. }) => format!("quote with event log{firmware}"),
        (_, Kind::Quote) => "quote alone".to_owned(),
        (_, Kind::Unread | Kind::Other) => Form.meaning().to_owned(),
    }
}

fn value(stage: Stage, peer: &AuthenticPeer, report: &Report<'_>) -> String {
    let times = peer.collateral_times();
    match stage {
        Bound => match peer.binding() {
            Binding::Key(_) => "the certificate's key, whenever that was quoted".to_owned(),
            Binding::Challenge(..) => "the certificate's key, this connection, our nonce".to_owned(),
            Binding::ReportData => "the report data that were asked for".to_owned(),
            Binding::Nothing => "nothing that was asked for (see --report-data)".to_owned(),
        },
        Root => match peer.tee() {
            Tee::Tdx => "Intel's".to_owned(),
            _ => "the simulated TEE's, whose keys are public".to_owned(),
        },
        Collateral => format!(
            "FMSPC {}, signed since {}, evaluation {}, expires {}",
            hex::encode(peer.fmspc()),
            rfc3339(times.oldest_issue),
            times.evaluation_number,
            rfc3339(peer.collateral_expires())
        ),
        Log => {
            let firmware =
                if report.kind.has_firmware_log() { "; the firmware's leads to RTMR0 to RTMR2" } else { "" };
            format!("leads to RTMR3 {}{firmware}", peer.rtmr3())
        }
        Image => {
            let names = [
                ("MRTD", peer.launch().mrtd),
                ("RTMR1", peer.launch().rtmr1),
                ("RTMR2", peer.launch().rtmr2),
            ];
            let shown = |(name, register): (&str, Register)| format!("{name} {}", short(&register));
            names.map(shown).join(", ")
        }
        App => format!("{} with document {}", peer.app_id(), peer.compose_hash()),
        KeyProvider => peer.key_provider().to_string(),
        Tcb => format!("{} {}", peer.tcb_status(), peer.advisory_ids().join(" ")).trim_end().to_owned(),
        Module => format!("MRSEAM {}", peer.report().mr_seam),
        Platform => {
            let piid = peer.platform_instance_id().map_or_else(|| "none".to_owned(), hex::encode);
            format!("PPID {}, PIID {piid}", hex::encode(peer.ppid()))
        }
        Freshness => {
            let days = report.now.saturating_sub(times.oldest_issue).checked_div(DAY).unwrap_or_default();
            format!("collateral {days} days old")
        }
        Form | Validity | Quote | BootEvents | Identity => stage.meaning().to_owned(),
    }
}

/// Enough of a register to recognise it; it stands whole below.
fn short(register: &Register) -> String {
    if register.is_zero() {
        "not measured".to_owned()
    } else {
        register.to_string().chars().take(16).chain(['…']).collect()
    }
}
