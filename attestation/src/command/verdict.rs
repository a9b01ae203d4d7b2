//! What was found out.

use casemate_verify::{AuthenticPeer, Class, Reason, VerifiedPeer, VerifyError};

use super::exit::Exit;

/// The command's verdict: the library's, and the two cases that only the command has.
pub(super) enum Verdict {
    Trusted(Box<VerifiedPeer>),
    NotTrusted(Box<AuthenticPeer>, Vec<Reason>),
    /// Authentic, and no policy was given.
    NotJudged(Box<AuthenticPeer>),
    NotAuthentic(Vec<Reason>),
    /// Nothing to judge by, or nobody to judge: in words, and in reasons if there are some.
    Undecided(String, Vec<Reason>),
}

impl From<casemate_verify::Verdict> for Verdict {
    fn from(verdict: casemate_verify::Verdict) -> Self {
        match verdict {
            casemate_verify::Verdict::Trusted(peer) => Self::Trusted(peer),
            casemate_verify::Verdict::NotTrusted { peer: Some(peer), reasons } => {
                Self::NotTrusted(peer, reasons)
            }
            casemate_verify::Verdict::NotTrusted { peer: None, reasons } => Self::NotAuthentic(reasons),
            casemate_verify::Verdict::Undecided(error) => {
                Self::Undecided(error.to_string(), error.into_reasons())
            }
        }
    }
}

impl From<Result<AuthenticPeer, VerifyError>> for Verdict {
    /// Without a policy.
    fn from(peer: Result<AuthenticPeer, VerifyError>) -> Self {
        match peer {
            Ok(peer) => Self::NotJudged(Box::new(peer)),
            Err(error @ VerifyError::NoCollateral { .. }) => {
                Self::Undecided(error.to_string(), error.into_reasons())
            }
            Err(error) => Self::NotAuthentic(error.into_reasons()),
        }
    }
}

impl Verdict {
    pub(super) const fn exit(&self) -> Exit {
        match self {
            Self::Trusted(_) => Exit::Trusted,
            Self::NotTrusted(..) | Self::NotJudged(_) | Self::NotAuthentic(_) => Exit::NotTrusted,
            Self::Undecided(..) => Exit::Undecided,
        }
    }

    /// The word in the JSON form.
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Trusted(_) => "trusted",
            Self::NotTrusted(..) => "not-trusted",
            Self::NotJudged(_) => "not-judged",
            Self::NotAuthentic(_) => "not-authentic",
            Self::Undecided(..) => "undecided",
        }
    }

    /// The one line for a person.
    pub(super) const fn sentence(&self) -> &'static str {
        match self {
            Self::Trusted(_) => "trusted",
            Self::NotTrusted(..) => "NOT TRUSTED",
            Self::NotJudged(_) => "NOT TRUSTED: authentic, not judged (no --policy)",
            Self::NotAuthentic(_) => "NOT TRUSTED: not authentic",
            Self::Undecided(..) => "UNDECIDED",
        }
    }

    pub(super) fn peer(&self) -> Option<&AuthenticPeer> {
        match self {
            Self::Trusted(peer) => Some(peer),
            Self::NotTrusted(peer, _) | Self::NotJudged(peer) => Some(peer),
            Self::NotAuthentic(_) | Self::Undecided(..) => None,
        }
    }

    pub(super) fn tags(&self) -> &[String] {
        match self {
            Self::Trusted(peer) => peer.tags(),
            _ => &[],
        }
    }

    pub(super) fn reasons(&self) -> &[Reason] {
        match self {
            Self::NotTrusted(_, reasons) | Self::NotAuthentic(reasons) | Self::Undecided(_, reasons) => {
                reasons
            }
            Self::Trusted(_) | Self::NotJudged(_) => &[],
        }
    }

    /// Why nobody could be authenticated, with what to do about it, where there is something.
    pub(super) fn error(&self) -> Option<String> {
        let Self::NotAuthentic(reasons) = self else { return self.advice() };
        let advice = self.advice();
        Some(reasons.iter().map(ToString::to_string).chain(advice).collect::<Vec<_>>().join("; "))
    }

    /// What the reasons alone do not say.
    pub(super) fn advice(&self) -> Option<String> {
        match self {
            Self::NotAuthentic(reasons) => {
                let of_root = reasons.iter().any(|reason| reason.class == Class::Root);
                (of_root && cfg!(feature = "simulator")).then(|| "see --trust-simulator".to_owned())
            }
            Self::Undecided(text, _) => Some(text.clone()),
            _ => None,
        }
    }

    /// With collateral that was given and does not hold: such a verdict rests on less than the caller wanted it to.
    pub(super) fn with_refused(self, refused: Vec<Reason>) -> Self {
        let with = |mut reasons: Vec<Reason>, refused| {
            reasons.extend(refused);
            reasons
        };
        match self {
            _ if refused.is_empty() => self,
            Self::Trusted(peer) => Self::NotTrusted(Box::new((**peer).clone()), refused),
            Self::NotJudged(peer) => Self::NotTrusted(peer, refused),
            Self::NotTrusted(peer, reasons) => Self::NotTrusted(peer, with(reasons, refused)),
            Self::NotAuthentic(reasons) => Self::NotAuthentic(with(reasons, refused)),
            Self::Undecided(..) => Self::NotAuthentic(refused),
        }
    }
}
