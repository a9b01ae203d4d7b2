//! Asks a target who it is, and judges the answer.

use std::path::Path;
use std::sync::Arc;

use casemate_verify::evidence::Presented;
use casemate_verify::{Evidence, Policy, Reason, TrustAnchor, Verifier, ratls};

use super::arguments::Inspect;
use super::challenge::{self, Exchange};
use super::collateral::{self, Own, Source};
use super::exit::Exit;
use super::report::{Kind, Report};
use super::target::{self, Shown, Target};
use super::verdict::Verdict;
use super::{Failure, Stop, io};

pub(super) fn run(arguments: &Inspect) -> Result<Exit, Failure> {
    let text = arguments.target.as_deref().unwrap_or_default();
    let target = Target::of(text)?;
    let policy = arguments.policy.as_deref().map(read_policy).transpose()?;
    let inspection = Inspection {
        verifier: Verifier::new(anchors(arguments), Arc::default()),
        source: arguments.collateral.as_deref().map(Source::of).transpose()?,
        challenge: challenge(arguments, &target, policy.as_ref())?,
        policy,
        report_data: arguments.report_data,
        now: arguments.at.unwrap_or_else(io::now),
    };
    let (kind, verdict) = match inspection.judge(&target) {
        Ok(found) => found,
        Err(Stop::Verdict(verdict)) => (Kind::Unread, *verdict),
        Err(Stop::Failure(failure)) => return Err(failure),
    };
    if let (Verdict::Undecided(error, _), Kind::Unread) = (&verdict, &kind) {
        eprintln!("[casemate-verify error]: {error}");
    }
    let report = Report {
        target: text,
        verdict: &verdict,
        kind,
        policy: inspection.policy.as_ref(),
        now: inspection.now,
    };
    let text = if arguments.json { report.json() } else { report.text() };
    io::files::write(None, text.as_bytes()).map_err(Failure::usage)?;
    Ok(verdict.exit())
}

fn read_policy(path: &Path) -> Result<Policy, Failure> {
    let bytes = io::files::read(path).map_err(Failure::usage)?;
    Policy::from_json(&path.display().to_string(), &bytes, None).map_err(Failure::usage)
}

fn anchors(arguments: &Inspect) -> Vec<TrustAnchor> {
    #[cfg_attr(not(feature = "simulator"), expect(unused_mut, reason = "only the simulator is ever added"))]
    let mut anchors = vec![TrustAnchor::Intel];
    #[cfg(feature = "simulator")]
    if arguments.trust_simulator {
        anchors.push(TrustAnchor::Simulator);
    }
    #[cfg(not(feature = "simulator"))]
    let _ = arguments;
    anchors
}

/// Whether to challenge: if it is asked for, or the policy demands it of a server.
fn challenge(arguments: &Inspect, target: &Target, policy: Option<&Policy>) -> Result<bool, Failure> {
    let is_server = matches!(target, Target::Peer { .. });
    if arguments.nonce && !is_server {
        return Err(Failure::usage(
            "--nonce: expected HOST:PORT as TARGET, found a file (which answers nothing)",
        ));
    }
    if arguments.report_data.is_some() && is_server {
        return Err(Failure::usage("--report-data: expected a file or directory as TARGET, found HOST:PORT"));
    }
    Ok(is_server && (arguments.nonce || policy.is_some_and(Policy::demands_challenge)))
}

struct Inspection {
    verifier: Verifier,
    policy: Option<Policy>,
    source: Option<Source>,
    challenge: bool,
    report_data: Option<[u8; 64]>,
    now: u64,
}

impl Inspection {
    fn judge(&self, target: &Target) -> Result<(Kind, Verdict), Stop> {
        let (host, port) = match target {
            Target::File(path) => return self.shown(&target::file(path)?),
            Target::Directory(path) => return self.shown(&target::directory(path)?),
            Target::Peer { host, port } => (host.as_str(), *port),
        };
        if self.challenge {
            let exchange = challenge::ask(host, port)?;
            let kind = Kind::challenge(&exchange.chain)?;
            let verdict = self
                .with_collateral(&exchange.answer.quote, None, Some((host, port)), || self.answer(&exchange));
            return Ok((kind, verdict));
        }
        let peer = io::tls::Peer::look_at(host, port)
            .map_err(|error| Verdict::Undecided(format!("{host}:{port}: {error}"), Vec::new()))?;
        let chain =
            ratls::from_chain(&peer.chain).map_err(|error| Verdict::NotAuthentic(vec![error.into()]))?;
        // Nothing else goes over the connection that was looked at.
        drop(peer);
        let evidence = Evidence::Certificate(Box::new(chain));
        let verdict = self.with_collateral(quote_of(&evidence), None, Some((host, port)), || {
            self.presented(&(&evidence).into())
        });
        Ok((Kind::of(&evidence, false), verdict))
    }

    /// The verdict on what lies in files.
    fn shown(&self, shown: &Shown) -> Result<(Kind, Verdict), Stop> {
        let is_certificate = matches!(shown.evidence, Evidence::Certificate(_));
        if is_certificate && self.report_data.is_some() {
            return Err(Failure::usage("--report-data: expected evidence without a certificate, found a certificate (which binds a key)").into());
        }
        let presented = Presented {
            evidence: &shown.evidence,
            firmware_log: shown.firmware_log.as_ref(),
            report_data: self.report_data.as_ref(),
        };
        let kind = Kind::of(&shown.evidence, shown.firmware_log.is_some());
        let verdict =
            self.with_collateral(quote_of(&shown.evidence), shown.collateral.as_ref(), None, || {
                self.presented(&presented)
            });
        Ok((kind, verdict))
    }

    fn presented(&self, presented: &Presented<'_>) -> Verdict {
        match &self.policy {
            Some(policy) => policy.verdict(&self.verifier, presented, self.now).into(),
            None => self.verifier.authenticate(presented, self.now).into(),
        }
    }

    fn answer(&self, exchange: &Exchange) -> Verdict {
        let Exchange { chain, nonce, exporter, answer } = exchange;
        let leaf = chain.first().map(Vec::as_slice).unwrap_or_default();
        let peer = self.verifier.verify_challenge(leaf, answer, nonce, exporter, self.now);
        match &self.policy {
            Some(policy) => {
                let vouched = peer.and_then(|peer| {
                    let certificate = ratls::from_chain(chain)?;
                    Ok(policy.vouched(peer, &certificate, self.now))
                });
                policy.verdict_on(vouched, self.now).into()
            }
            None => peer.into(),
        }
    }

    /// The verdict, after whatever collateral there is has been offered.
    fn with_collateral(
        &self,
        quote: &[u8],
        beside: Option<&collateral::Offered>,
        peer: Option<(&str, u16)>,
        judge: impl Fn() -> Verdict,
    ) -> Verdict {
        let given = match &self.source {
            Some(Source::File(offered)) => vec![offered.as_ref()],
            Some(Source::Directory(_, offered)) => collateral::matching(quote, offered),
            Some(Source::Pccs(_)) => Vec::new(),
            None => beside.into_iter().collect(),
        };
        let refused = if quote.is_empty() {
            Vec::new()
        } else {
            collateral::offer(&self.verifier, quote, given, self.now)
        };
        let verdict = judge();
        let Verdict::Undecided(text, reasons) = verdict else { return with_refused(verdict, refused) };
        if !refused.is_empty() {
            return Verdict::NotAuthentic(refused);
        }
        // The quote's root is trusted, and nothing is known about such a platform.
        match (&self.source, peer) {
            (Some(Source::Pccs(base)), _) => match collateral::of_pccs(base, quote) {
                Ok(offered) => {
                    let refused = collateral::offer(&self.verifier, quote, [&offered], self.now);
                    judge().with_refused(refused)
                }
                Err(error) => Verdict::Undecided(format!("{text}; {error}"), reasons),
            },
            (Some(Source::Directory(name, offered)), _) => {
                Verdict::Undecided(format!("{text}; {}", collateral::none_matching(name, offered)), reasons)
            }
            (None, Some((host, port))) => {
                match collateral::of_peer(&self.verifier, quote, host, port, self.now) {
                    Own::Kept => judge(),
                    Own::Refuses(reasons) => Verdict::NotAuthentic(reasons),
                    Own::Useless(why) => {
                        Verdict::Undecided(format!("{text}; {why}; pass --collateral"), reasons)
                    }
                }
            }
            _ => Verdict::Undecided(format!("{text}; pass --collateral"), reasons),
        }
    }
}

/// Where the quote's root is not trusted, or its certificate not valid, that is the verdict; what was said of collateral follows
/// from the same and is not said twice.
fn with_refused(verdict: Verdict, refused: Vec<Reason>) -> Verdict {
    match verdict {
        Verdict::NotAuthentic(_) => verdict,
        verdict => verdict.with_refused(refused),
    }
}

fn quote_of(evidence: &Evidence) -> &[u8] {
    match evidence {
        Evidence::Quote(quote) => quote,
        Evidence::Attestation(attestation) => &attestation.quote,
        Evidence::Certificate(certificate) => &certificate.attestation.quote,
        _ => &[],
    }
}
