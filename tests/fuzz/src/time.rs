//! What the time process reads of servers and of the network, and what PID 1 reads of the time process.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use casemate_init::time::Report;
use casemate_init::time::nts::key_exchange::{is_complete, judge};
use casemate_init::time::nts::{Answer, Association, Cookie, FULL, Keys, Nonces};

use crate::Verdict;

const NAME: &str = "time.example";
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// 2026-11-01 (UTC): in the middle of what the seed says.
const PIVOT: Duration = Duration::from_secs(1_793_491_200);

/// What is taken is complete, and brings cookies that can be sent back, no more than are kept.
pub(crate) fn exchange(bytes: &[u8]) -> Verdict {
    let Ok(cookies) = judge(bytes, ADDRESS, NAME) else { return Verdict::Refused };
    assert!(is_complete(bytes), "taken, and not complete");
    assert!((1..=FULL).contains(&cookies.len()), "{} cookies", cookies.len());
    let mut association = Association::new(keys(), cookies);
    let sent = association.request(&nonces());
    assert!(matches!(sent, Ok(Some(_))), "a cookie that cannot be sent: {sent:?}");
    Verdict::Accepted
}

/// Nobody without the keys has an answer believed: but for its end, which nothing authenticates and nobody reads, it is the
/// seed's.
pub(crate) fn answer(bytes: &[u8]) -> Verdict {
    const AUTHENTIC: &[u8] = include_bytes!("../seeds/nts-answer/authentic");
    let cookie = Cookie::new(&[6; 100]);
    let request = cookie.and_then(|cookie| Association::new(keys(), vec![cookie]).request(&nonces()));
    let Ok(Some(request)) = request else { panic!("no request: {request:?}") };
    let Ok(answer) = Answer::open(bytes, &request, &keys()) else { return Verdict::Refused };
    assert!(bytes.starts_with(AUTHENTIC), "a forged answer was believed");
    for away in [0, 1, 250, 100_000] {
        let received = Duration::from_secs(5) + Duration::from_millis(away);
        if let Ok(sample) = answer.sample(Duration::from_secs(5), received, PIVOT) {
            assert_eq!(sample.at, received);
            assert!(
                sample.error >= Duration::from_millis(away).saturating_sub(Duration::from_millis(250)) / 2
            );
        }
    }
    Verdict::Accepted
}

/// PID 1's side: one spelling, for every number of servers that a document may name.
pub(crate) fn report(bytes: &[u8]) -> Verdict {
    let mut accepted = false;
    for servers in 0..=8 {
        if let Ok(report) = Report::decode(bytes, servers) {
            accepted = true;
            assert_eq!(report.encode(), bytes);
            assert!(usize::from(report.server) < servers);
            assert!(usize::from(report.votes) * 2 > servers && usize::from(report.votes) <= servers);
        }
    }
    Verdict::accepted(accepted)
}

const fn keys() -> Keys {
    Keys { to_server: [1; 32], to_client: [2; 32] }
}

const fn nonces() -> Nonces {
    Nonces { unique_id: [3; 32], origin: [4; 8], aead: [5; 16] }
}
