//! Intel's collateral: from files, from a PCCS, from the peer itself. Nothing of it counts before the quote at hand verified it.

use std::io;
use std::path::Path;
use std::time::Duration;

use casemate_verify::collateral::pccs::{self, Answer, Item};
use casemate_verify::collateral::{Collateral, MAX_COLLATERAL};
use casemate_verify::{Class, PlatformKind, Reason, Verifier, VerifyError};
use serde::Deserialize;

use super::Failure;
use super::io::http::Response;
use super::io::url::{Url, authority};
use super::io::{files, tls};

/// Where `--collateral` says that it is.
pub(super) enum Source {
    /// In one file.
    File(Box<Offered>),
    /// In files of this directory.
    Directory(String, Vec<Offered>),
    /// At a PCCS.
    Pccs(Url),
}

/// Collateral as somebody gave it.
pub(super) struct Offered {
    /// What errors call it.
    name: String,
    collateral: Collateral,
    /// The kind of platform that it says to be for, upper-case hex.
    fmspc: String,
}

#[derive(Deserialize)]
struct TcbInfo {
    fmspc: String,
}

/// What tells collateral from other JSON.
#[derive(Deserialize)]
struct Looks {
    tcb_info: Option<String>,
}

impl Offered {
    /// Reads a file that must be collateral.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let bytes = files::read(path).map_err(Failure::usage)?;
        Self::of(path.display().to_string(), &bytes).map_err(Failure::usage)
    }

    fn of(name: String, json: &[u8]) -> Result<Self, String> {
        let collateral = Collateral::from_json(json).map_err(|error| format!("{name}: {error}"))?;
        let looks: Looks = serde_json::from_slice(json).map_err(|error| format!("{name}: {error}"))?;
        let info = looks.tcb_info.unwrap_or_default();
        let fmspc = serde_json::from_str(&info)
            .map_or_else(|_| String::new(), |info: TcbInfo| info.fmspc.to_ascii_uppercase());
        Ok(Self { name, collateral, fmspc })
    }

    /// Verifies it by a quote, and keeps it.
    fn keep(&self, verifier: &Verifier, quote: &[u8], now: u64) -> Result<(), VerifyError> {
        let verified = verifier.verify_collateral(quote, self.collateral.clone(), now)?;
        verifier.store().keep(verified, now);
        Ok(())
    }
}

impl Source {
    /// What is on the command line.
    pub(super) fn of(text: &str) -> Result<Self, Failure> {
        if text.contains("://") {
            let url = Url::parse(text).filter(|url| !url.path.contains('?'));
            return url.map(Self::Pccs).ok_or_else(|| {
                Failure::usage(format!("--collateral: expected the base URL of a PCCS (https://HOST[:PORT][/PATH]), found {text:?}"))
            });
        }
        let path = Path::new(text);
        if !path.is_dir() {
            return Offered::read(path).map(|offered| Self::File(Box::new(offered)));
        }
        let mut offered = Vec::new();
        for (name, path) in files::list(path).map_err(Failure::usage)? {
            if !name.ends_with(".json") {
                continue;
            }
            let bytes = files::read(&path).map_err(Failure::usage)?;
            // Other JSON may lie there, too. What looks like collateral must be some.
            if serde_json::from_slice::<Looks>(&bytes).is_ok_and(|looks| looks.tcb_info.is_some()) {
                offered.push(Offered::of(path.display().to_string(), &bytes).map_err(Failure::usage)?);
            }
        }
        if offered.is_empty() {
            return Err(Failure::usage(format!("{text}: expected collateral (*.json), found none")));
        }
        Ok(Self::Directory(text.to_owned(), offered))
    }
}

/// Keeps what holds of the collateral that was given in files; the reasons if none does.
pub(super) fn offer<'a>(
    verifier: &Verifier,
    quote: &[u8],
    given: impl IntoIterator<Item = &'a Offered>,
    now: u64,
) -> Vec<Reason> {
    let mut refused = Vec::new();
    let mut kept = false;
    for offered in given {
        match offered.keep(verifier, quote, now) {
            Ok(()) => kept = true,
            // Which of the two is wrong, quote or collateral, the reason's class says.
            Err(error) => refused.extend(error.into_reasons().into_iter().map(|reason| Reason {
                what: format!("collateral {}: {}", offered.name, reason.what),
                ..reason
            })),
        }
    }
    if kept { Vec::new() } else { refused }
}

/// Those of a directory that are for a quote's kind of platform.
pub(super) fn matching<'a>(quote: &[u8], offered: &'a [Offered]) -> Vec<&'a Offered> {
    let fmspc =
        PlatformKind::of_quote(quote).map_or_else(|_| String::new(), |kind| hex::encode_upper(kind.fmspc));
    offered.iter().filter(|offered| offered.fmspc == fmspc).collect()
}

/// Why nothing of a directory fits.
pub(super) fn none_matching(directory: &str, offered: &[Offered]) -> String {
    let kinds: Vec<_> = offered.iter().map(|offered| offered.fmspc.as_str()).collect();
    format!("{directory} has collateral for FMSPC {}", kinds.join(", "))
}

/// Asks a PCCS for the collateral of a quote's kind of platform.
pub(super) fn of_pccs(base: &Url, raw: &[u8]) -> Result<Offered, String> {
    let platform = PlatformKind::of_quote(raw).map_err(|error| error.to_string())?;
    let mut answers = Vec::new();
    for item in Item::ALL {
        let url = base.join(&item.path(&platform));
        let asked = tls::get(&url, pccs::MAX_BODY).and_then(Response::ok);
        let answer = match asked {
            // Intel's own service lacks the root's list.
            Err(_) if item == Item::RootCrl => root_crl()?,
            asked => asked.map_err(|error| format!("{url}: {error}"))?,
        };
        answers.push((item, answer));
    }
    let chain = |item: Item, answer: &Response| {
        item.chain_headers().iter().find_map(|name| answer.header(name)).map(str::to_owned)
    };
    let chains: Vec<_> = answers.iter().map(|(item, answer)| chain(*item, answer)).collect();
    let mut read = answers
        .iter()
        .zip(&chains)
        .map(|((_, answer), chain)| Answer { chain: chain.as_deref(), body: &answer.body });
    let (Some(a), Some(b), Some(c), Some(d)) = (read.next(), read.next(), read.next(), read.next()) else {
        return Err(format!("{base}: expected four answers"));
    };
    let parts = pccs::collateral([a, b, c, d]).map_err(|error| format!("{base}: {error}"))?;
    let json = serde_json::to_vec(&parts).map_err(|error| error.to_string())?;
    Offered::of(base.to_string(), &json)
}

/// Where Intel has its root's revocation list: the distribution point in its root certificate.
const INTEL_ROOT_CRL: &str = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der";

fn root_crl() -> Result<Response, String> {
    let url = Url::parse(INTEL_ROOT_CRL).ok_or("the root's revocation list has no URL")?;
    tls::get(&url, pccs::MAX_BODY).and_then(Response::ok).map_err(|error| format!("{url}: {error}"))
}

/// Where an appliance has its own.
const OWN: &str = "/.well-known/casemate/collateral";
/// For the answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What became of a peer's own collateral.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Own {
    /// The quote verified it.
    Kept,
    /// It holds, and by it the quote does not: a revocation is signed, whoever shows it.
    Refuses(Vec<Reason>),
    /// There is none, or it does not hold, which leaves the verdict open.
    Useless(String),
}

/// Asks the peer for its own, on a connection that carries nothing else.
pub(super) fn of_peer(verifier: &Verifier, quote: &[u8], host: &str, port: u16, now: u64) -> Own {
    let fetch =
        || -> io::Result<_> { tls::Peer::connect(host, port)?.get(OWN, MAX_COLLATERAL, TIMEOUT)?.ok() };
    let read = fetch()
        .map_err(|error| error.to_string())
        .and_then(|answer| Offered::of(authority(host, port), &answer.body));
    let own = match read {
        Ok(own) => own,
        Err(error) => return Own::Useless(format!("its own: {error}")),
    };
    match own.keep(verifier, quote, now) {
        Ok(()) => Own::Kept,
        Err(error) if matches!(error.class(), Class::Collateral | Class::Signature) => {
            Own::Useless(format!("its own: {error}"))
        }
        Err(error) => Own::Refuses(error.into_reasons()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::{SocketAddr, TcpListener};
    use std::sync::Arc;

    use casemate_verify::TrustAnchor;
    use rustls::pki_types::PrivatePkcs8KeyDer;
    use rustls::{ServerConfig, ServerConnection, StreamOwned};

    use super::*;

    const QUOTE: &[u8] = include_bytes!("../../tests/fixtures/tdx_quote");
    const COLLATERAL: &str = include_str!("../../tests/fixtures/tdx_quote_collateral.json");
    /// When [`COLLATERAL`] is valid.
    const VALID: u64 = 1_750_329_600;

    /// A peer with this answer to the first request; what was asked is the thread's value.
    fn peer(status: &'static str, body: String) -> (SocketAddr, std::thread::JoinHandle<String>) {
        let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(signed.signing_key.serialize_der());
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![signed.cert.der().clone()], key.into())
            .unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let asked = std::thread::spawn(move || {
            let stream = listener.accept().unwrap().0;
            let mut stream = StreamOwned::new(ServerConnection::new(Arc::new(config)).unwrap(), stream);
            let head: Vec<_> = BufReader::new(&mut stream)
                .lines()
                .map_while(Result::ok)
                .take_while(|line| !line.is_empty())
                .collect();
            // Who asked may have heard enough before the end.
            let _sent = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            head.join(" ")
        });
        (address, asked)
    }

    fn ask(status: &'static str, body: String, now: u64) -> (Verifier, Own, String) {
        let verifier = Verifier::new([TrustAnchor::Intel], Arc::default());
        let (address, asked) = peer(status, body);
        let found = of_peer(&verifier, QUOTE, "127.0.0.1", address.port(), now);
        (verifier, found, asked.join().unwrap())
    }

    #[test]
    fn a_peers_own_counts_if_its_quote_verifies_it() {
        let (verifier, found, asked) = ask("200 OK", COLLATERAL.to_owned(), VALID);
        assert_eq!(found, Own::Kept);
        assert!(
            asked.starts_with("GET /.well-known/casemate/collateral HTTP/1.1 Host: 127.0.0.1:"),
            "{asked}"
        );
        verifier.verify_quote(QUOTE, VALID).unwrap();
    }

    #[test]
    fn a_peers_own_that_does_not_hold_leaves_it_open() {
        let changed = COLLATERAL.replacen("UpToDate", "OutOfDate", 1);
        let long = format!("{COLLATERAL}{}", " ".repeat(MAX_COLLATERAL));
        for (status, body, now, words) in [
            ("404 No", String::new(), VALID, "found 404"),
            ("200 OK", "{}".to_owned(), VALID, "expected JSON"),
            ("200 OK", long, VALID, "expected a body of at most"),
            ("200 OK", changed, VALID, "invalid for tcb_info"),
            ("200 OK", COLLATERAL.to_owned(), VALID + 365 * 86_400, "xpired"),
        ] {
            let (verifier, found, _) = ask(status, body, now);
            let Own::Useless(text) = found else { panic!("{found:?}") };
            assert!(text.contains(words), "{words}: {text}");
            assert!(matches!(verifier.verify_quote(QUOTE, VALID), Err(VerifyError::NoCollateral { .. })));
        }
    }
}
