//! Requests as a server would read them, answers as a hostile one would write them.

use proptest::prelude::*;

use super::*;
use crate::time::nts::Association;

const PIVOT: Duration = Duration::from_secs(1_793_491_200);

fn keys() -> Keys {
    Keys { to_server: [1; 32], to_client: [2; 32] }
}

fn nonces() -> Nonces {
    Nonces { unique_id: [3; 32], origin: [4; 8], aead: [5; 16] }
}

fn request() -> Request {
    let mut association = Association::new(keys(), vec![Cookie::new(&[6; 100]).unwrap()]);
    association.request(&nonces()).unwrap().unwrap()
}

/// So many quarters of a second after 1 793 500 000.
fn ntp(quarters: u64) -> u64 {
    (1_793_500_000 + FROM_1900_TO_1970 + quarters / 4) << 32 | (quarters % 4) << 30
}

/// How to write an answer.
#[derive(Clone)]
struct Script {
    header: [u8; 48],
    unique_id: Option<Vec<u8>>,
    key: [u8; 32],
    authenticator: bool,
    plain: Vec<u8>,
    behind: Vec<u8>,
}

impl Script {
    /// Received a quarter of a second before it was sent, at 1 793 500 000.5.
    fn good() -> Self {
        let mut header = [0; 48];
        header[..4].copy_from_slice(&[0x24, 1, 6, 0xe8]);
        header[4..8].copy_from_slice(&0x0000_8000_u32.to_be_bytes());
        header[8..12].copy_from_slice(&0x0000_4000_u32.to_be_bytes());
        header[12..16].copy_from_slice(b"GPS\0");
        header[24..32].copy_from_slice(&nonces().origin);
        header[32..40].copy_from_slice(&ntp(1).to_be_bytes());
        header[40..48].copy_from_slice(&ntp(2).to_be_bytes());
        let mut plain = Vec::new();
        put(&mut plain, field::COOKIE, &[7; 100]);
        put(&mut plain, 0x4242, &[0; 12]);
        put(&mut plain, field::COOKIE, &[8; 100]);
        let unique_id = Some(nonces().unique_id.to_vec());
        Self { header, unique_id, key: keys().to_client, authenticator: true, plain, behind: vec![] }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.header.to_vec();
        if let Some(unique_id) = &self.unique_id {
            put(&mut bytes, field::UNIQUE_ID, unique_id);
        }
        if self.authenticator {
            let nonce = [9; 16];
            let sealed = siv::seal(&self.key, &bytes, &nonce, &self.plain).unwrap();
            let mut body = vec![0, 16];
            body.extend_from_slice(&u16::try_from(sealed.len()).unwrap().to_be_bytes());
            body.extend_from_slice(&nonce);
            body.extend_from_slice(&sealed);
            body.resize(body.len().next_multiple_of(4), 0);
            put(&mut bytes, field::AUTHENTICATOR, &body);
        }
        bytes.extend_from_slice(&self.behind);
        bytes
    }

    fn open(&self) -> Result<Answer, TimeError> {
        Answer::open(&self.bytes(), &request(), &keys())
    }
}

#[test]
fn a_request_is_what_a_server_expects() {
    let request = request();
    let bytes = request.bytes();
    assert_eq!(bytes[0], 0x23, "version 4, client");
    assert!(bytes[1..40].iter().all(|byte| *byte == 0), "nothing of ours is told");
    assert_eq!(bytes[40..48], nonces().origin);
    let mut at = HEADER;
    let mut seen = Vec::new();
    while let Some((kind, body, next)) = extension(bytes, at).unwrap() {
        if kind == field::AUTHENTICATOR {
            let authenticator = Authenticator::read(&bytes[..at], body).unwrap();
            assert_eq!(authenticator.nonce, nonces().aead);
            assert_eq!(authenticator.open(&keys().to_server).unwrap(), b"");
        }
        seen.push((kind, body.len()));
        at = next;
    }
    let mut expected = vec![(field::UNIQUE_ID, 32), (field::COOKIE, 100)];
    expected.extend([(field::PLACEHOLDER, 100); 7]);
    expected.push((field::AUTHENTICATOR, 36));
    assert_eq!(seen, expected);
}

#[test]
fn a_good_answer_gives_time_and_cookies() {
    let answer = Script::good().open().unwrap();
    assert_eq!(answer.cookies, [Cookie::new(&[7; 100]).unwrap(), Cookie::new(&[8; 100]).unwrap()]);
    let (sent, received) = (Duration::from_secs(50), Duration::from_millis(50_350));
    let sample = answer.sample(sent, received, PIVOT).unwrap();
    // 350 ms away, of which 250 on the server: 50 ms each way.
    assert_eq!(sample.at, received);
    assert_eq!(sample.time, Duration::from_millis(1_793_500_000_550));
    // Half the way, half the server's delay of 500 ms, its dispersion of 250 ms.
    assert_eq!(sample.error, Duration::from_millis(550));
    // Faster than the server says it took.
    assert!(answer.sample(sent, sent + Duration::from_millis(249), PIVOT).is_err());
}

#[test]
fn what_is_behind_the_authenticator_is_not_read() {
    let mut script = Script::good();
    put(&mut script.behind, field::UNIQUE_ID, &[0; 32]);
    script.behind.push(1);
    assert_eq!(script.open().unwrap(), Script::good().open().unwrap());
}

#[test]
fn hostile_answers_are_refused() {
    let with = |change: fn(&mut Script)| {
        let mut script = Script::good();
        change(&mut script);
        script
    };
    let kiss = |authentic: bool, code: &[u8; 4]| {
        let mut script = Script::good();
        script.authenticator = authentic;
        script.header[1] = 0;
        script.header[12..16].copy_from_slice(code);
        script
    };
    for (script, why) in [
        (with(|s| s.unique_id = Some(vec![0; 32])), "our unique identifier"),
        (with(|s| s.unique_id = Some(vec![3; 28])), "our unique identifier"),
        (with(|s| s.unique_id = None), "a unique identifier, found none"),
        (with(|s| s.header[24] ^= 1), "our origin"),
        (with(|s| s.authenticator = false), "an authenticator, found none"),
        (with(|s| s.key = [1; 32]), "an authentic one"),
        (with(|s| s.key = [0; 32]), "an authentic one"),
        (with(|s| s.header[0] = 0x1c), "version 4"),
        (with(|s| s.header[0] = 0x23), "mode 4"),
        (with(|s| s.header[0] = 0xe4), "a synchronised server, found leap 3"),
        (with(|s| s.header[1] = 16), "a synchronised server"),
        (with(|s| s.header[1] = 255), "a synchronised server"),
        (with(|s| s.header[40..48].fill(0)), "transmit"),
        (with(|s| s.header[40..48].copy_from_slice(&ntp(0).to_be_bytes())), "transmit"),
        (with(|s| s.plain = vec![2, 4, 0, 255, 1, 2]), "extension"),
        (with(|s| s.plain = [&[2, 4, 0, 18][..], &[0; 14]].concat()), "extension"),
        (with(|s| s.plain = vec![2, 4, 0, 0]), "extension"),
        (
            with(|s| {
                s.plain.clear();
                put(&mut s.plain, field::COOKIE, &[0; 12])
            }),
            "a cookie of",
        ),
        (kiss(false, b"NTSN"), "kiss-o'-death \"NTSN\""),
        (kiss(true, b"RATE"), "kiss-o'-death \"RATE\""),
        (kiss(true, b"DENY"), "kiss-o'-death \"DENY\""),
        // An unauthentic kiss of somebody who does not know the identifier is no kiss.
        (Script { unique_id: Some(vec![0; 32]), ..kiss(false, b"DENY") }, "our unique identifier"),
    ] {
        let error = script.open().unwrap_err().to_string();
        assert!(error.contains(why), "{error} and not {why}");
    }
    let good = Script::good().bytes();
    for bytes in [&good[..0], &good[..47], &[0; 3000]] {
        assert!(Answer::open(bytes, &request(), &keys()).is_err());
    }
    // Two identifiers, one of them ours.
    let mut two = good[..48].to_vec();
    put(&mut two, field::UNIQUE_ID, &[0; 32]);
    two.extend_from_slice(&good[48..]);
    assert!(
        Answer::open(&two, &request(), &keys()).unwrap_err().to_string().contains("one unique identifier")
    );
}

/// Every byte up to the end of the authenticator is protected.
#[test]
fn no_bit_of_an_answer_can_be_changed() {
    let good = Script::good().bytes();
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            let opened = Answer::open(&bytes, &request(), &keys());
            assert!(opened.is_err(), "byte {at} bit {bit}: {opened:?}");
        }
    }
}

#[test]
fn a_replay_is_refused() {
    let mut next = nonces();
    next.unique_id = [30; 32];
    next.origin = [40; 8];
    let mut association = Association::new(keys(), vec![Cookie::new(&[6; 100]).unwrap()]);
    let request = association.request(&next).unwrap().unwrap();
    let error = Answer::open(&Script::good().bytes(), &request, &keys()).unwrap_err();
    assert!(error.to_string().contains("our origin"), "{error}");
}

#[test]
fn time_stamps_have_no_era() {
    let at = |seconds: u64| {
        let in_era = (seconds + FROM_1900_TO_1970) & 0xffff_ffff;
        unix(in_era << 32 | 0x8000_0000, PIVOT).unwrap()
    };
    // The second era begins in 2036.
    for seconds in [1_793_491_200, 2_085_978_495, 2_085_978_496, 2_085_978_497, 3_900_000_000, 20_000_000] {
        assert_eq!(at(seconds), Duration::new(seconds, 500_000_000), "{seconds}");
    }
    // 1900, and everything else that far away, is another time to us, and never a panic.
    assert_eq!(unix(0, PIVOT), Some(Duration::from_secs(2_085_978_496)));
    assert_eq!(unix(0x9000_0000 << 32, Duration::ZERO), Some(Duration::from_secs(206_930_304)));
    assert_eq!(unix(0x8000_0000 << 32, Duration::ZERO), None, "before 1970");
}

proptest! {
    #[test]
    fn nothing_panics(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        header in any::<[u8; 24]>(),
        times in any::<(u64, u64, u64)>(),
    ) {
        drop(Answer::open(&bytes, &request(), &keys()));
        // With what can be known without a key right, too.
        let mut script = Script::good();
        script.header[1..24].copy_from_slice(&header[1..]);
        script.header[32..40].copy_from_slice(&times.0.to_be_bytes());
        script.header[40..48].copy_from_slice(&times.1.to_be_bytes());
        script.plain = bytes.clone();
        if let Ok(answer) = script.open() {
            drop(answer.sample(Duration::from_nanos(times.2), Duration::from_nanos(times.0), PIVOT));
        }
        let mut bare = Script { authenticator: false, ..Script::good() };
        put(&mut bare.behind, field::AUTHENTICATOR, &bytes);
        drop(bare.open());
        bare.behind = bytes;
        drop(bare.open());
    }
}
