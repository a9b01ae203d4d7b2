//! The event log of a boot, read after its replay held: which events, once each, in which order (dstack reference 4.2).

use casemate_measure::tdx::aggregated::Hash256;
use casemate_measure::{AppId, ComposeHash, EventLog, InstanceId, RuntimeEvent};

use crate::error::{Class, Reason, VerifyError, printable};
use crate::key_provider::ProviderClaim;

/// What a boot's events say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BootFacts {
    pub(crate) app_id: AppId,
    pub(crate) compose_hash: ComposeHash,
    pub(crate) instance_id: Option<InstanceId>,
    pub(crate) key_provider: ProviderClaim,
    pub(crate) os_image_hash: Option<Hash256>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Occurs {
    Once,
    AtMostOnce,
    AnyNumber,
}

/// The boot events of dstack 0.5.6 to 0.6, in their order.
const BOOT: &[(&str, Occurs)] = &[
    ("system-preparing", Occurs::Once),
    ("app-id", Occurs::Once),
    ("compose-hash", Occurs::Once),
    ("init-script-hash", Occurs::AnyNumber),
    ("gpu-policy-hash", Occurs::AtMostOnce),
    ("gpu-attestation", Occurs::AtMostOnce),
    ("instance-id", Occurs::Once),
    ("boot-mr-done", Occurs::Once),
    ("mr-kms", Occurs::AtMostOnce),
    ("os-image-hash", Occurs::AtMostOnce),
    ("key-provider", Occurs::Once),
    ("storage-fs", Occurs::AtMostOnce),
    ("system-ready", Occurs::Once),
];

/// Reads a log that replays to the quoted RTMR3; the caller has checked that.
///
/// Up to `system-ready` every event must be known and in its place. After it, an app of dstack up to 0.5.11 may have
/// extended events of its own, which say nothing about the boot; they may not bear a boot event's name.
pub(crate) fn read(log: &EventLog) -> Result<BootFacts, VerifyError> {
    let events = log.events();
    let mut stages = BOOT.iter().peekable();
    let mut seen: Vec<(usize, &RuntimeEvent)> = Vec::new();
    for (index, event) in events.iter().enumerate() {
        let known = BOOT.iter().any(|(name, _)| *name == event.event);
        if stages.peek().is_none() {
            if known {
                return Err(out_of_place(index, event, &seen, "no boot event after system-ready"));
            }
            continue;
        }
        if !known {
            return Err(refuse(index, &event.event, "a boot event", "an unknown one"));
        }
        loop {
            match stages.peek() {
                Some((name, occurs)) if *name == event.event => {
                    if *occurs != Occurs::AnyNumber {
                        stages.next();
                    }
                    break;
                }
                Some((name, Occurs::Once)) => {
                    return Err(out_of_place(index, event, &seen, &format!("{name} first")));
                }
                Some(_) => {
                    stages.next();
                }
                None => return Err(out_of_place(index, event, &seen, "no boot event after system-ready")),
            }
        }
        seen.push((index, event));
    }
    if let Some((missing, _)) = stages.find(|(_, occurs)| *occurs == Occurs::Once) {
        return Err(refuse(events.len(), missing, "this event", "the end of the log"));
    }

    for name in ["system-preparing", "boot-mr-done", "system-ready"] {
        let (index, event) = find(&seen, name)?;
        if !event.payload.is_empty() {
            let found = format!("{} bytes", event.payload.len());
            return Err(refuse(index, name, "an empty payload", &found));
        }
    }
    let (index, provider) = find(&seen, "key-provider")?;
    let claim = std::str::from_utf8(&provider.payload).ok().and_then(ProviderClaim::of_event);
    let key_provider = claim.ok_or_else(|| {
        let found = printable(&String::from_utf8_lossy(&provider.payload));
        refuse(index, "key-provider", r#"{"name":"…","id":"…"}"#, &found)
    })?;
    let os_image_hash = match seen.iter().find(|(_, event)| event.event == "os-image-hash") {
        // dstack extends what the KMS answered: 32 bytes, or none from a KMS that does not say.
        Some((_, event)) if !event.payload.is_empty() => Some(Hash256(payload(&seen, "os-image-hash")?)),
        _ => None,
    };
    let (_, instance) = find(&seen, "instance-id")?;
    Ok(BootFacts {
        app_id: AppId(payload(&seen, "app-id")?),
        compose_hash: ComposeHash(payload(&seen, "compose-hash")?),
        instance_id: if instance.payload.is_empty() {
            None
        } else {
            Some(InstanceId(payload(&seen, "instance-id")?))
        },
        key_provider,
        os_image_hash,
    })
}

fn find<'a>(
    seen: &[(usize, &'a RuntimeEvent)],
    name: &str,
) -> Result<(usize, &'a RuntimeEvent), VerifyError> {
    let found = seen.iter().find(|(_, event)| event.event == name).copied();
    found.ok_or_else(|| refuse(seen.len(), name, "this event", "none"))
}

fn payload<const N: usize>(seen: &[(usize, &RuntimeEvent)], name: &str) -> Result<[u8; N], VerifyError> {
    let (index, event) = find(seen, name)?;
    let found = format!("{} bytes", event.payload.len());
    event.payload.as_slice().try_into().map_err(|_| refuse(index, name, &format!("{N} bytes"), &found))
}

fn out_of_place(
    index: usize,
    event: &RuntimeEvent,
    seen: &[(usize, &RuntimeEvent)],
    expected: &str,
) -> VerifyError {
    if seen.iter().any(|(_, earlier)| earlier.event == event.event) {
        return refuse(index, &event.event, "this event once", "it again");
    }
    refuse(index, &event.event, expected, "it out of order")
}

fn refuse(index: usize, name: &str, expected: &str, found: &str) -> VerifyError {
    let what = format!("event log: event {index} ({})", printable(name));
    Reason::new(Class::BootEvent, what, expected, found).into()
}

#[cfg(test)]
mod tests {
    use casemate_measure::KeyProvider;

    use super::*;

    fn boot() -> Vec<RuntimeEvent> {
        vec![
            RuntimeEvent::new("system-preparing", []),
            RuntimeEvent::new("app-id", [1; 20]),
            RuntimeEvent::new("compose-hash", [1; 32]),
            RuntimeEvent::new("instance-id", [2; 20]),
            RuntimeEvent::new("boot-mr-done", []),
            RuntimeEvent::new("key-provider", KeyProvider::None.event_payload()),
            RuntimeEvent::new("system-ready", []),
        ]
    }

    fn refusal(events: Vec<RuntimeEvent>) -> String {
        read(&EventLog::new(events)).unwrap_err().to_string()
    }

    #[test]
    fn a_boot_is_read() {
        let facts = read(&EventLog::new(boot())).unwrap();
        assert_eq!(facts.app_id, AppId([1; 20]));
        assert_eq!(facts.compose_hash, ComposeHash([1; 32]));
        assert_eq!(facts.instance_id, Some(InstanceId([2; 20])));
        assert_eq!(facts.key_provider, ProviderClaim::none());
        assert_eq!(facts.os_image_hash, None);
    }

    #[test]
    fn optional_events_have_their_place() {
        let mut events = boot();
        events.insert(6, RuntimeEvent::new("storage-fs", *b"ext4"));
        events.insert(3, RuntimeEvent::new("gpu-policy-hash", [0; 32]));
        events.insert(3, RuntimeEvent::new("init-script-hash", [0; 32]));
        events.insert(3, RuntimeEvent::new("init-script-hash", [0; 32]));
        events.push(RuntimeEvent::new("of-an-app", [1]));
        events.push(RuntimeEvent::new("of-an-app", [1]));
        read(&EventLog::new(events)).unwrap();
    }

    #[test]
    fn no_instance_id_is_an_empty_payload() {
        let mut events = boot();
        events[3].payload.clear();
        assert_eq!(read(&EventLog::new(events)).unwrap().instance_id, None);
    }

    #[test]
    fn every_missing_doubled_or_moved_event_is_named() {
        for index in 0..boot().len() {
            let name = boot()[index].event.clone();
            let mut missing = boot();
            missing.remove(index);
            let text = refusal(missing);
            assert!(text.contains(&name), "{name}: {text}");

            let mut doubled = boot();
            doubled.insert(index + 1, boot()[index].clone());
            let text = refusal(doubled);
            assert!(text.contains(&format!("({name}): expected this event once, found it again")), "{text}");
        }
        let mut moved = boot();
        moved.swap(1, 2);
        assert_eq!(
            refusal(moved),
            "event log: event 1 (compose-hash): expected app-id first, found it out of order"
        );
    }

    #[test]
    fn unknown_and_late_events_are_named() {
        let mut unknown = boot();
        unknown.insert(2, RuntimeEvent::new("ro\u{1b}[2Jot", []));
        assert_eq!(
            refusal(unknown),
            r"event log: event 2 (ro\u{1b}[2Jot): expected a boot event, found an unknown one"
        );
        let mut late = boot();
        late.push(RuntimeEvent::new("mr-kms", [0; 32]));
        assert_eq!(
            refusal(late),
            "event log: event 7 (mr-kms): expected no boot event after system-ready, found it out of order"
        );
        let mut late = boot();
        late.push(RuntimeEvent::new("app-id", [9; 20]));
        assert!(refusal(late).contains("event 7 (app-id): expected this event once"));
    }

    #[test]
    fn payloads_have_their_sizes() {
        let with = |index: usize, payload: &[u8]| {
            let mut events = boot();
            events[index].payload = payload.to_vec();
            refusal(events)
        };
        assert_eq!(with(1, &[0; 19]), "event log: event 1 (app-id): expected 20 bytes, found 19 bytes");
        assert_eq!(with(2, &[]), "event log: event 2 (compose-hash): expected 32 bytes, found 0 bytes");
        assert_eq!(with(3, &[1]), "event log: event 3 (instance-id): expected 20 bytes, found 1 bytes");
        assert_eq!(
            with(6, &[1]),
            "event log: event 6 (system-ready): expected an empty payload, found 1 bytes"
        );
    }

    #[test]
    fn a_kms_and_its_image_hash_are_read() {
        let mut events = boot();
        events[5].payload = KeyProvider::Kms(vec![1]).event_payload().into_bytes();
        events.insert(5, RuntimeEvent::new("os-image-hash", [7; 32]));
        let facts = read(&EventLog::new(events)).unwrap();
        assert_eq!(facts.key_provider, ProviderClaim { name: "kms".into(), id: "01".into() });
        assert!(facts.key_provider.is_kms());
        assert_eq!(facts.os_image_hash, Some(Hash256([7; 32])));
    }

    #[test]
    fn a_key_provider_of_another_form_is_refused() {
        let mut events = boot();
        events[5].payload = b"none".to_vec();
        let expected = r#"event log: event 5 (key-provider): expected {"name":"…","id":"…"}, found none"#;
        assert_eq!(refusal(events), expected);
    }
}
