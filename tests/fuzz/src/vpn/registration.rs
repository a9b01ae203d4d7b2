//! Registration: a VPC server's answer.

use casemate_vpn::control::client::ServerUrl;
use casemate_vpn::key::{Machine, Public};
use casemate_vpn::registration::{Answer, Rules};

use super::PREFIXES;
use crate::Verdict;
use crate::measured::check_printable;

/// The configured server, where there is one.
const SERVER: &str = "https://hs.example";
const PINNED: Public<Machine> = Public::new([7; 32]);
/// What a key is known by, where it must not be.
const KEY: &str = "hskey-";

/// `F` (nothing is configured), `P` (server and key are) or `O` (nothing is, and plain HTTP is allowed), and an answer.
///
/// What is taken is of the configured server, under the pinned key, and not in the clear unless that is allowed; no text about it,
/// taken or refused, has a key in it.
pub(crate) fn registration(input: &[u8]) -> Verdict {
    let Some((kind, body)) = input.split_first() else { return Verdict::Refused };
    let (pinned, plain_http) = match kind {
        b'F' => (false, false),
        b'P' => (true, false),
        b'O' => (false, true),
        _ => return Verdict::Refused,
    };
    let server = SERVER.parse::<ServerUrl>().unwrap_or_else(|error| panic!("{error}"));
    let rules = Rules {
        server: pinned.then_some(server),
        noise_key: pinned.then_some(PINNED),
        plain_http,
        prefixes: PREFIXES.to_vec(),
        derp_pins: [("derp.example".to_owned(), "0a".repeat(32))].into(),
    };
    let answer = match Answer::read(body, &rules) {
        Ok(answer) => answer,
        Err(why) => {
            let text = why.to_string();
            check_printable(&text);
            assert!(!text.contains(KEY) && !text.contains("privkey:"), "a key: {text:?}");
            return Verdict::Refused;
        }
    };
    assert!(answer.server.https || plain_http || answer.server.is_loopback(), "in the clear");
    if let Some(expected) = &rules.server {
        let (found, expected) = (answer.server.authority(), expected.authority());
        assert!(
            found.eq_ignore_ascii_case(&expected) && answer.noise_key == PINNED,
            "another server: {found}"
        );
    }
    assert!(!answer.noise_key.is_zero() && !answer.key.expose().is_empty());
    assert!(!format!("{:?}", answer.key).contains(KEY), "a key is shown");
    Verdict::Accepted
}
