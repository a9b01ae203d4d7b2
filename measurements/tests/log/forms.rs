//! One log, whatever it is wrapped in.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use casemate_measure::log::{Form, Source, ccel};
use casemate_measure::{DigestVersion, MrConfigId};

use super::*;

fn quote() -> Vec<u8> {
    hex::decode(report()["quote"].as_str().unwrap()).unwrap()
}

#[test]
fn every_wrapping_of_json_holds_the_same_log() {
    let report = report();
    let list = report["event_log"].clone();
    let plain = read(&list);
    assert_eq!((plain.form, plain.events.len(), plain.registers), (Form::List, 28, None));
    let tcb_info = json!({
        "mrtd": REAL[0], "rtmr0": REAL[1], "rtmr1": REAL[2], "rtmr2": REAL[3], "rtmr3": REAL[4],
        "mr_aggregated": "", "event_log": list, "app_compose": "{\"event_log\": []}",
    });
    for (wrapped, source) in [
        (report.clone(), Some(Source::Quote)),
        (
            json!({ "quote": report["quote"], "event_log": list.to_string(), "vm_config": "{}" }),
            Some(Source::Quote),
        ),
        (
            json!({ "quote": format!("0x{}", report["quote"].as_str().unwrap()), "event_log": list }),
            Some(Source::Quote),
        ),
        (json!({ "event_log": list }), None),
        (json!({ "app_id": "00", "tcb_info": tcb_info.to_string() }), Some(Source::Info)),
        (json!({ "tcb_info": tcb_info }), Some(Source::Info)),
        (tcb_info.clone(), Some(Source::Info)),
    ] {
        let log = read(&wrapped);
        assert_eq!((log.form, &log.events), (Form::Answer, &plain.events));
        assert_eq!(log.registers.map(|registers| registers.source), source);
        if let Some(registers) = log.registers {
            assert_eq!((registers.mrtd, registers.rtmr), (real(0), [1, 2, 3, 4].map(real)));
            let zero = (source == Some(Source::Quote)).then_some(MrConfigId::ZERO);
            assert_eq!(registers.mrconfigid, zero);
        }
    }
    // A quote wins over what the agent states beside it; an agent without a log answers an empty string.
    let both = read(&json!({ "quote": report["quote"], "tcb_info": tcb_info }));
    assert_eq!(both.registers.unwrap().source, Source::Quote);
    assert_eq!(read(&json!({ "quote": report["quote"], "event_log": "" })).events, []);
}

#[test]
fn the_file_in_the_guest_is_read_line_by_line() {
    let log = read(&report());
    let runtime = || log.events.iter().filter(|event| event.rtmr == Rtmr::Rtmr3);
    let line = |event: &log::Logged| {
        json!({ "event": event.name, "payload": STANDARD.encode(&event.payload) }).to_string()
    };
    let text: Vec<_> = runtime().map(line).collect();
    let text = text.join("\n") + "\n";
    let lines = log::read("FILE", text.as_bytes()).unwrap();
    assert_eq!(lines.form, Form::Lines);
    let seen: Vec<_> = lines.events.iter().map(log::Logged::runtime).collect();
    assert_eq!(seen, runtime().map(log::Logged::runtime).collect::<Vec<_>>());
    assert_eq!(log::replay(&lines).register(Rtmr::Rtmr3).unwrap().register, real(4));
    assert_eq!(
        refused(text.replacen("\"payload\":\"\"", "\"payload\":\"=\"", 1)),
        "FILE: line 1: payload: expected base64, found Invalid symbol 61, offset 0."
    );
    assert!(
        refused(format!("{text}{{}}")).starts_with("FILE: line 9: expected an event, found missing field")
    );
    let two = r#"{"event":"a","payload":"","version":2}"#;
    assert_eq!(log::read("FILE", two.as_bytes()).unwrap().events[0].version, DigestVersion::V2);
}

#[test]
fn a_quote_is_read_in_both_versions_as_bytes_and_as_hex() {
    let four = quote();
    let mut five = four.clone();
    five[0] = 5;
    let body = [&2_u16.to_le_bytes()[..], &584_u32.to_le_bytes()].concat();
    five.splice(48..48, body);
    let mut longer = five.clone();
    longer[48] = 3;
    longer.splice(50..54, 648_u32.to_le_bytes());
    let digits = format!(" 0x{}\n", hex::encode(&four));
    for bytes in [four.clone(), five.clone(), longer, digits.into_bytes(), hex::encode(&five).into_bytes()] {
        let log = log::read("FILE", &bytes).unwrap();
        assert_eq!((log.form, log.events.len()), (Form::Quote, 0));
        let registers = log.registers.unwrap();
        assert_eq!((registers.mrtd, registers.rtmr), (real(0), [1, 2, 3, 4].map(real)));
    }
    // The signature behind the report is not read; the report must be whole.
    assert!(log::read("FILE", &four[..632]).is_ok());
    assert_eq!(
        refused(&four[..631]),
        "FILE: TDX quote: report data before byte 568: expected 64 more bytes, found 63"
    );
    let mut other = five.clone();
    other[48] = 5;
    assert!(refused(&other).ends_with("body type before byte 50: expected 2 to 4 (a TD report), found 5"));
    other[48] = 3;
    assert!(refused(&other).ends_with("length of the TD report before byte 54: expected 648, found 584"));
    let sgx = json!({ "quote": hex::encode([&[3_u8, 0][..], &[0; 700]].concat()) });
    assert_eq!(refused(sgx.to_string()), "FILE: TDX quote: version before byte 2: expected 4 or 5, found 3");
}

/// MRTD and RTMR3 by their offsets, in Python.
#[test]
fn a_real_quote_of_version_five_is_read() {
    let log = log::read("FILE", include_bytes!("../fixtures/tdx_quote_td15ex.head")).unwrap();
    let registers = log.registers.unwrap();
    assert_eq!(
        registers.mrtd.to_string(),
        "2a674327c50218dba880066b349b8d559d749ed68dce33fd651c184a877d084b07a9e583767a7ad5da13ed91deec2b70"
    );
    assert_eq!(
        registers.rtmr[3].to_string(),
        "556d4986cae57e7e3756b6471e4951be6f5f1b4e70942c72325223d6af239da90f1484eeb627727e6d2c0755393b5fdf"
    );
}

#[test]
fn a_ccel_is_read_with_any_padding() {
    for fill in [None, Some(0xff), Some(0)] {
        let mut bytes = CCEL.to_vec();
        if let Some(fill) = fill {
            bytes.resize(64 << 10, fill);
        }
        let log = log::read("FILE", &bytes).unwrap();
        assert_eq!((log.form, log.events.len(), log.left_out), (Form::Ccel, 18, 0));
        let first = &log.events[0];
        assert_eq!((first.rtmr, first.event_type.0, first.place.byte), (Rtmr::Rtmr0, 0x8000_000b, Some(65)));
        assert!(first.payload.starts_with(b"\x09TdxTable\0"));
    }
}

/// UEFI 2.10 section 38.4.1: index 0 is MRTD, 1 to 4 are RTMR0 to RTMR3.
#[test]
fn a_ccels_indices_are_registers_plus_one() {
    let records: Vec<_> = (0..5).flat_map(|index| record(index, 8, &[7; 48], b"x")).collect();
    let no_action = record(9, 3, &[7; 48], b"x");
    let log = log::read("FILE", &[&CCEL[..CCEL_HEADER], &records, &no_action].concat()).unwrap();
    let seen: Vec<_> = log.events.iter().map(|event| (event.place.event, event.rtmr)).collect();
    assert_eq!(seen, [(1, Rtmr::Rtmr0), (2, Rtmr::Rtmr1), (3, Rtmr::Rtmr2), (4, Rtmr::Rtmr3)]);
    assert_eq!(log.left_out, 2);
    assert_eq!(
        refused([&CCEL[..CCEL_HEADER], &record(5, 8, &[7; 48], b"x")].concat()),
        "FILE: CCEL: register before byte 69 (event 0): expected 0 to 4 (MRTD, RTMR0 to RTMR3), found 5"
    );
}

/// A header with these algorithms, and one event with a digest of each, in another order.
fn with_algorithms(algorithms: &[(u16, u16)]) -> Vec<u8> {
    let mut data = b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02".to_vec();
    data.extend(u32::try_from(algorithms.len()).unwrap().to_le_bytes());
    data.extend(algorithms.iter().flat_map(|(id, length)| [id.to_le_bytes(), length.to_le_bytes()].concat()));
    data.push(0);
    let mut log = [&[1, 0, 0, 0, 3, 0, 0, 0][..], &[0; 20]].concat();
    log.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
    log.extend(data);
    log.extend([1_u32, 4, u32::try_from(algorithms.len()).unwrap()].map(u32::to_le_bytes).concat());
    for (id, length) in algorithms.iter().rev() {
        log.extend(id.to_le_bytes());
        log.extend(vec![u8::try_from(*id).unwrap(); usize::from(*length)]);
    }
    log.extend([1, 0, 0, 0, b'x']);
    log
}

#[test]
fn sha384_is_picked_among_a_ccels_algorithms() {
    let log = log::read("FILE", &with_algorithms(&[(4, 20), (0xb, 32), (0xc, 48), (0xd, 64)])).unwrap();
    assert_eq!(log.events[0].digest, Some(Register([0xc; 48])));
    assert_eq!(log.events[0].payload, b"x");
    for (algorithms, says) in [
        (&[(4, 20), (0xb, 32)][..], "expected 12 (SHA-384), found 4 or 11"),
        (&[(0xc, 20)], "size of a digest before byte 32: expected 48, found 20"),
        (&[(0xb, 65), (0xc, 48)], "expected 1 to 64, found 65"),
        (&[(0xb, 0), (0xc, 48)], "expected 1 to 64, found 0"),
        (&[(0xc, 48), (0xc, 48)], "algorithm before byte 34: expected each once, found 12 again"),
        (&[(0xc, 48); 9], "number of algorithms before byte 28: expected 1 to 8, found 9"),
        (&[], "expected 1 to 8, found 0"),
    ] {
        let error = refused(with_algorithms(algorithms));
        assert!(error.starts_with("FILE: CCEL: ") && error.ends_with(says), "{error}");
    }
    let mut twice = with_algorithms(&[(0xb, 48), (0xc, 48)]);
    let second = twice.len() - 5 - 50;
    twice[second] = 0xc;
    assert!(refused(&twice).ends_with("digest algorithm before byte 133 (event 0): expected 11, found 12"));
}

#[test]
fn a_ccel_that_leads_out_of_itself_is_refused() {
    let known = ccel::records(CCEL).unwrap();
    for length in 0..CCEL.len() {
        match ccel::records(&CCEL[..length]) {
            Err(error) => assert!(!error.to_string().is_empty()),
            // A log that ends with an event is one that has fewer; or its reserved rest, if it is zero.
            Ok(records) => {
                assert_eq!(records, known[..records.len()]);
                let end = records
                    .last()
                    .map_or(CCEL_HEADER, |last| last.place.byte.unwrap() + 66 + last.data.len());
                assert!(CCEL[end..length].iter().all(|byte| *byte == 0), "{length}");
            }
        }
    }
    let many: Vec<_> = (0..=ccel::MAX_EVENTS).flat_map(|_| record(1, 8, &[7; 48], b"")).collect();
    let error = refused([&CCEL[..CCEL_HEADER], &many].concat());
    assert_eq!(error, "FILE: CCEL: expected at most 512 events, found more");
    let mut long = CCEL.to_vec();
    long.resize(ccel::MAX_BYTES + 1, 0xff);
    assert_eq!(refused(long), "FILE: CCEL: expected at most 262144 bytes, found 262145");
}

#[test]
fn bad_json_is_refused_with_its_place() {
    let with = |field: &str, value: Value| {
        let mut report = report();
        events(&mut report)[21][field] = value;
        refused(report.to_string())
    };
    assert_eq!(with("imr", json!(4)), "FILE: event_log[21].imr: expected 0 to 3 (RTMR0 to RTMR3), found 4");
    assert_eq!(with("version", json!(3)), "FILE: event_log[21].version: expected 1 or 2, found 3");
    assert!(with("digest", json!("ab")).starts_with("FILE: event_log[21].digest: expected 96 hex digits"));
    assert!(with("event_payload", json!("0")).starts_with("FILE: event_log[21].event_payload: expected hex"));
    assert!(with("preimage", json!("zz")).starts_with("FILE: event_log[21].preimage: expected hex digits"));
    assert!(
        with("event_type", json!(-1)).starts_with("FILE: event_log[21]: expected an event, found invalid")
    );
    assert!(with("imr", json!("\u{1b}")).contains("invalid type: string \\\"\\\\u{1b}\\\""));

    let list = report()["event_log"].to_string();
    for (text, says) in [
        ("", "FILE: expected a CCEL, an event log of dstack's (JSON) or a TDX quote, found nothing"),
        (
            "hello",
            "FILE: expected a CCEL, an event log of dstack's (JSON) or a TDX quote, found something else",
        ),
        ("{}", "FILE: JSON: expected event_log, quote or tcb_info, found an object without them"),
        ("[3]", "FILE: [0]: expected an event (a JSON object), found \\\"3\\\""),
        ("[[3,1,\"\",\"\",\"\",null,null]]", "FILE: [0]: expected an event (a JSON object), found"),
        ("[{\"imr\":3,\"imr\":3}]", "FILE: [0]: expected an event, found duplicate field `imr`"),
        ("[{\"imr\":0,\"event_type\":4}]", "FILE: [0].digest: expected 96 hex digits (only a runtime"),
        (
            "{\"event_log\":[],\"\\u0065vent_log\":[]}",
            "FILE: JSON: expected one JSON document, found duplicate field",
        ),
        (
            "{\"event_log\":[],\"tcb_info\":{\"event_log\":[]}}",
            "FILE: event_log: expected one event log, found another",
        ),
        ("{\"event_log\":3}", "FILE: event_log: expected a JSON list of events, found invalid type"),
        ("{\"tcb_info\":[]}", "FILE: tcb_info: expected a JSON object, found something else"),
        ("{\"tcb_info\":{\"mrtd\":\"00\"}}", "FILE: tcb_info.mrtd: expected 96 hex digits, found \\\"00\\\""),
        ("{\"event_log\":\"[] []\"}", "FILE: event_log: expected a JSON list of events, found trailing"),
        ("{\"quote\":\"zz\"}", "FILE: quote: expected hex digits, found Invalid character"),
    ] {
        let error = refused(text);
        assert!(error.starts_with(says), "{text}: {error}");
    }
    let event = "{\"imr\":3,\"event_type\":134217729},".repeat(4097);
    let error = refused(format!("[{}]", event.trim_end_matches(',')));
    assert_eq!(error, "FILE: event log: expected at most 4096 events, found more");
    assert_eq!(
        refused(vec![b'['; (8 << 20) + 1]),
        "FILE: event log: expected at most 8388608 bytes, found 8388609"
    );
    assert!(refused(format!("{list} x")).starts_with("FILE: event log: expected a JSON list"));
}
