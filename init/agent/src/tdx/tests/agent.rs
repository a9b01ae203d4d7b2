//! The whole agent on such a machine.

use casemate_measure::{ComposeHash, EventLog, InstanceId, KeyProvider};
use casemate_verify::ratls::from_certificate;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

use super::boot_log::recorded_log;
use super::*;
use crate::agent::Request;
use crate::{Agent, AgentError, Handover, TeeHandover, TlsKeyRequest, boot_events};

const DOCUMENT: &str = "{\"name\": \"an app\"}";

fn handover() -> Handover {
    let compose_hash = ComposeHash::of(DOCUMENT.as_bytes());
    let app_id = compose_hash.app_id();
    let instance_id = InstanceId::derive(&[9; 20], &app_id);
    Handover {
        document: DOCUMENT.into(),
        app_name: "an app".into(),
        compose_hash,
        app_id,
        instance_id: Some(instance_id),
        key_provider: KeyProvider::None.event_payload(),
        events: EventLog::new(boot_events(&compose_hash, &app_id, Some(&instance_id))),
        tee: TeeHandover::Tdx { root: "/".into(), boot_log: recorded_log() },
        version: "1".into(),
    }
}

/// The recorded machine, after PID 1 has extended the boot's events.
fn machine(handover: &Handover) -> Fake {
    let fake = Fake::of(&recorded().quote);
    fake.state().td.rtmr[3] = Register::ZERO;
    for event in handover.events.events() {
        fake.device().extend_rtmr3(&event.digest()).unwrap();
    }
    fake
}

fn agent(fake: &Fake, handover: Handover) -> Result<Agent, AgentError> {
    let tee = TdxTee::open(fake.device(), &recorded_log()).unwrap();
    Agent::with(handover, Box::new(tee))
}

fn call(agent: &Agent, request: &Request) -> Value {
    serde_json::from_slice(&agent.carry_out(request, OffsetDateTime::now_utc()).unwrap()).unwrap()
}

#[test]
fn quotes_carry_the_firmwares_events_before_our_own() {
    let handover = handover();
    let fake = machine(&handover);
    let agent = agent(&fake, handover.clone()).unwrap();
    let quote = call(&agent, &Request::Quote([0x33; 64]));
    let bytes = hex::decode(quote["quote"].as_str().unwrap()).unwrap();
    assert_eq!(report_of(&bytes).report_data, [0x33; 64]);
    assert_eq!(report_of(&bytes).rtmr3(), handover.events.replay());

    let recorded = recorded();
    let firmware: Vec<_> = recorded.event_log.iter().filter(|event| event.imr < 3).collect();
    let log: Vec<Value> = serde_json::from_str(quote["event_log"].as_str().unwrap()).unwrap();
    assert_eq!(log.len(), 20 + 7);
    for (event, known) in log.iter().zip(&firmware) {
        assert_eq!(event["imr"], known.imr);
        assert_eq!(event["event_type"], known.event_type);
        assert_eq!(event["digest"], known.digest.to_string());
        assert_eq!((&event["event"], &event["event_payload"]), (&"".into(), &"".into()));
        assert_eq!(known.event, "");
    }
    assert_eq!(log[20]["event"], "system-preparing");
    assert!(log[20..].iter().all(|event| event["imr"] == 3 && event["digest"] == ""));

    let info = call(&agent, &Request::Info);
    let tcb: Value = serde_json::from_str(info["tcb_info"].as_str().unwrap()).unwrap();
    let log = tcb["event_log"].as_array().unwrap();
    assert_eq!(log.len(), 20 + 7);
    for (event, known) in log.iter().zip(&firmware) {
        assert_eq!(event["event_payload"], hex::encode(&known.event_payload));
    }
    assert_eq!(log[26]["digest"], handover.events.events()[6].digest().to_string());
    let report = report_of(&recorded.quote);
    assert_eq!(tcb["mrtd"], report.mrtd.to_string());
    assert_eq!(tcb["rtmr2"], report.rtmr[2].to_string());
}

#[test]
fn certificates_speak_for_their_key_on_hardware_too() {
    let handover = handover();
    let fake = machine(&handover);
    let agent = agent(&fake, handover.clone()).unwrap();
    let made = fake.count("read outblob");
    let request = TlsKeyRequest { usage_ra_tls: true, usage_server_auth: true, ..TlsKeyRequest::default() };
    let answer = call(&agent, &Request::TlsKey(request));
    let leaf = answer["certificate_chain"][0].as_str().unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(leaf.as_bytes()).unwrap();
    let evidence = from_certificate(&pem.contents).unwrap();
    assert_eq!(evidence.attestation.events, handover.events);
    let report = report_of(&evidence.attestation.quote);
    assert_eq!(report.report_data, evidence.attestation.report_data);
    assert_eq!(report.rtmr3(), handover.events.replay());
    assert_eq!(fake.count("read outblob"), made + 1);
    // Without evidence the TEE is left alone.
    call(&agent, &Request::TlsKey(TlsKeyRequest::default()));
    assert_eq!(fake.count("read outblob"), made + 1);
}

#[test]
fn mr_aggregated_covers_the_owner_only_where_there_is_one() {
    for (config_id, owner, owner_config) in [(0, 0, 0), (0, 4, 0), (0, 0, 5), (6, 0, 0)] {
        let handover = handover();
        let fake = machine(&handover);
        {
            let mut state = fake.state();
            state.td.mr_config_id = casemate_measure::MrConfigId([config_id; 48]);
            state.td.mr_owner = Register([owner; 48]);
            state.td.mr_owner_config = Register([owner_config; 48]);
        }
        let td = fake.state().td;
        let mut covered: Vec<u8> =
            [td.mrtd, td.rtmr[0], td.rtmr[1], td.rtmr[2], td.rtmr[3]].map(|r| r.0).concat();
        if config_id | owner | owner_config != 0 {
            covered.extend([config_id, owner, owner_config].map(|byte| [byte; 48]).concat());
        }
        let info = call(&agent(&fake, handover).unwrap(), &Request::Info);
        assert_eq!(info["mr_aggregated"], hex::encode(Sha256::digest(covered)));
    }
}

#[test]
fn a_machine_whose_rtmr3_is_not_the_logs_has_no_agent() {
    let handover = handover();
    let fake = machine(&handover);
    fake.device().extend_rtmr3(&Register([1; 48])).unwrap();
    let error = agent(&fake, handover).unwrap_err().to_string();
    assert!(error.starts_with("RTMR3: expected ") && error.contains("by replay of the event log"), "{error}");
}

#[test]
fn a_handover_survives_the_way_to_the_agent() {
    let handover = handover();
    let text = serde_json::to_string(&handover).unwrap();
    assert!(text.contains(r#""tee":{"tdx":{"root":"/","boot_log":"01000000"#), "{text}");
    assert_eq!(serde_json::from_str::<Handover>(&text).unwrap(), handover);
    // No TDX here: the agent does not start without.
    let error = Agent::new(handover).unwrap_err().to_string();
    assert!(error.starts_with("/dev/tdx_guest: TDX_CMD_GET_REPORT0: "), "{error}");
}
