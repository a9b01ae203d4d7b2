//! Bytes that promise more than they are, or are more than anybody needs: refused, and nobody's memory.

use std::process::Command;

use casemate_verify::collateral::{Collateral, MAX_COLLATERAL};
use casemate_verify::evidence::{MAX_EVIDENCE, detect};
use casemate_verify::ratls::{self, Attestation, from_certificate};
use casemate_verify::{Class, EvidenceError, Policy};
use rcgen::{CertificateParams, CustomExtension};

use crate::certificates::{attestation, key};
use crate::real::VERSION_4;

/// Address space beyond what the process has when it reads one of them. Making them took some of it (a few copies of the
/// longest, 24 MiB); a head that is believed asks for gigabytes.
const MEMORY: usize = 256 << 20;

/// Set in the process in which memory is measured: other tests would be counted, too.
const CHILD: &str = "CASEMATE_BOMBS";

#[test]
fn they_cost_nothing() {
    if std::env::var_os(CHILD).is_some() {
        return explode();
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "bombs::they_cost_nothing", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{text}{}", String::from_utf8_lossy(&child.stderr));
    let line = text.lines().find(|line| line.contains("bombs: ")).unwrap();
    println!("{line}");
}

fn explode() {
    // Whatever the first use of anything sets up.
    drop(detect(&VERSION_4.quote[..100]));
    let (mut count, mut most) = (0, 0);
    let mut check = |name: &str, outcome: Result<(), EvidenceError>| {
        let Err(error) = outcome else { panic!("{name}: accepted") };
        let class = casemate_verify::VerifyError::from(error.clone()).class();
        assert_eq!(class, Class::Form, "{name}: {error}");
        assert!(error.to_string().len() < 1000, "{name}");
        let used = memory("VmPeak:") - memory("VmSize:");
        assert!(used < MEMORY, "{name}: {used} bytes");
        (count, most) = (count + 1, most.max(used));
    };
    for (name, bomb) in attestations() {
        check(&name, Attestation::decode(&bomb).map(drop));
        check(&name, detect(&bomb).map(drop));
        if bomb.len() < 1 << 20 {
            let der = certificate(ratls::ATTESTATION_OID, &bomb);
            check(&name, from_certificate(&der).map(drop));
        }
        let der = certificate(ratls::APP_INFO_OID, &bomb);
        check(&name, from_certificate(&der).map(drop));
    }
    for (name, make) in LOGS {
        let bomb = make();
        check(name, detect(&bomb).map(drop));
        // As the older form has them; 10 MiB are what is read of an attestation.
        check(name, from_certificate(&certificate(ratls::EVENT_LOG_OID, &bomb)).map(drop));
        check(name, from_certificate(&certificate(ratls::ATTESTATION_OID, &bomb)).map(drop));
    }
    for (name, bomb) in json() {
        check(name, detect(&bomb).map(drop));
        check(name, Collateral::from_json(&bomb).map(drop));
        assert!(Policy::from_json("policy", &bomb, None).is_err(), "{name}");
    }
    let mut der = certificate(ratls::USAGE_OID, &vec![b'a'; MAX_EVIDENCE]);
    check("a certificate of 24 MiB", detect(&der).map(drop));
    der.truncate(1 << 20);
    check("a part of it", detect(&der).map(drop));
    let long = vec![b' '; MAX_COLLATERAL + 1];
    check("collateral", Collateral::from_json(&long).map(drop));
    println!("bombs: {count} refused, {} MiB of memory at most", most >> 20);
}

/// Address space, touched or not: what this process has (`VmSize`), or the most it ever had (`proc_pid_status(5)`).
fn memory(which: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(which)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

/// In MessagePack and SCALE: lengths that nothing follows, at each place where a length stands, and nesting without end.
fn attestations() -> Vec<(String, Vec<u8>)> {
    let genuine = attestation(&key());
    let (scale, msgpack) = (genuine.encode_v0(), genuine.encode_v1().unwrap());
    let mut bombs = Vec::new();
    // Heads (MessagePack specification, "Overview"): str 32, bin 32, ext 32, array 32, map 32.
    let heads = [0xdb, 0xc6, 0xc9, 0xdd, 0xdf].map(|head| vec![head, 0xff, 0xff, 0xff, 0xff]);
    // As many levels as there are bytes: arrays of one, maps of one whose key is a map of one.
    let nested = [0x91, 0x81].map(|head| vec![head; 1 << 20]);
    let places: [&[u8]; 9] = [
        b"\xa7version",
        b"\xa4data",
        b"\xa5quote",
        b"\xa9event_log",
        b"\xa5stack",
        b"\xabreport_data",
        b"\xaeruntime_events",
        b"\xa7payload",
        b"\xa6config",
    ];
    for place in places {
        let at = msgpack.windows(place.len()).position(|window| window == place).unwrap() + place.len();
        for bomb in heads.iter().chain(&nested) {
            let name = format!("{}, then {:#x}", String::from_utf8_lossy(&place[1..]), bomb[0]);
            bombs.push((name, [&msgpack[..at], bomb].concat()));
            // With what follows it, as if that were its content.
            bombs.push((format!("before {}", bombs.len()), [&msgpack[..at], bomb, &msgpack[at..]].concat()));
        }
    }
    bombs.push(("a map of 2^32 entries".into(), vec![0xdf, 0xff, 0xff, 0xff, 0xff]));
    bombs.push(("a map of 65,535 entries".into(), vec![0xde, 0xff, 0xff]));
    bombs.push(("maps in maps".into(), nested[1].clone()));
    // Compact lengths (SCALE): 2^30 - 1; 2^32 - 1 and 2^64 - 1 in the form of big integers; 2^536 - 1.
    let lengths: [&[u8]; 4] = [
        &[0xfe, 0xff, 0xff, 0xff],
        &[3, 0xff, 0xff, 0xff, 0xff],
        &[0x13, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0xff; 68],
    ];
    let log = 4 + genuine.quote.len();
    // Quote, log, the digest and the name of its first event.
    for at in [2, log, log + 1 + 8, log + 1 + 8 + 1] {
        for length in lengths {
            bombs.push((format!("SCALE, length at {at}"), [&scale[..at], length].concat()));
            bombs.push((
                format!("SCALE, length at {at}, and more"),
                [&scale[..at], length, &scale[at..]].concat(),
            ));
        }
    }
    bombs
}

/// A name, and what makes it.
type Made = (&'static str, fn() -> Vec<u8>);

/// Logs of 16 MiB, twice what is read of one, and a firmware's whose first event says to have 4 GiB. Made one at a time.
const LOGS: &[Made] = &[
    ("a list of events", || many().into_bytes()),
    ("one event", || format!("[{}]", EVENT.replace("00", &"00".repeat(LENGTH / 2))).into_bytes()),
    ("an answer", || format!(r#"{{"quote":"{}","event_log":{}}}"#, quote(), many()).into_bytes()),
    ("an answer with its log in a string", || {
        format!(r#"{{"quote":"{}","event_log":"{}"}}"#, quote(), many().replace('"', "\\\"")).into_bytes()
    }),
    ("lines", || format!("{EVENT}\n").repeat(LENGTH / EVENT.len()).into_bytes()),
    ("CCEL", || CCEL.iter().copied().chain(std::iter::repeat(0xff)).take(LENGTH).collect()),
    ("CCEL with a first event of 4 GiB", || {
        let mut endless = CCEL.to_vec();
        endless[28..32].fill(0xff);
        endless
    }),
];

const LENGTH: usize = 16 << 20;
const CCEL: &[u8] = include_bytes!("../../../measurements/tests/fixtures/ccel.bin");
const EVENT: &str = r#"{"imr":3,"event_type":134217729,"digest":"","event":"app-id","event_payload":"00"}"#;

fn many() -> String {
    format!("[{}{EVENT}]", format!("{EVENT},").repeat(LENGTH / EVENT.len()))
}

fn quote() -> String {
    hex::encode(VERSION_4.quote)
}

/// Nesting without end, in whatever is JSON.
fn json() -> Vec<(&'static str, Vec<u8>)> {
    let deep = 100_000;
    vec![
        ("lists in lists", vec![b'['; deep]),
        ("objects in objects", br#"{"a":"#.repeat(deep)),
        (
            "an answer with a deep log",
            [br#"{"quote":"00","event_log":"#.as_slice(), &vec![b'['; deep]].concat(),
        ),
        ("an attestation that is a list", [br#"{"attestation":"#.as_slice(), &vec![b'['; deep]].concat()),
        ("a deep TCB info", [br#"{"tcb_info":"#.as_slice(), &vec![b'['; deep]].concat()),
        ("deep images", [br#"{"version":1,"images":"#.as_slice(), &vec![b'['; deep]].concat()),
    ]
}

fn certificate(oid: &[u64], content: &[u8]) -> Vec<u8> {
    let attestation = attestation(&key()).encode_v0();
    let extension =
        |oid: &[u64], content: &[u8]| CustomExtension::from_oid_content(oid, ratls::extension_value(content));
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.custom_extensions = vec![extension(oid, content)];
    if oid == ratls::EVENT_LOG_OID {
        params.custom_extensions.push(extension(ratls::QUOTE_OID, VERSION_4.quote));
    } else if oid != ratls::ATTESTATION_OID {
        params.custom_extensions.push(extension(ratls::ATTESTATION_OID, &attestation));
    }
    params.self_signed(&key()).unwrap().der().to_vec()
}
