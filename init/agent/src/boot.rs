//! The events of a boot, in the order in which PID 1 extends them into RTMR3.

pub use casemate_measure::tdx::rtmr3::{events_after_parsing, events_before_parsing};
use casemate_measure::{AppId, ComposeHash, InstanceId, KeyProvider, RuntimeEvent};

/// The whole boot of an app without a key provider.
pub fn boot_events(compose: &ComposeHash, app: &AppId, instance: Option<&InstanceId>) -> Vec<RuntimeEvent> {
    let before = events_before_parsing(compose, app);
    let after = events_after_parsing(instance, &KeyProvider::None);
    before.into_iter().chain(after).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Digests: dstack reference section 4.1, computed outside this code.
    #[test]
    fn order_payloads_and_digests_are_those_of_dstack() {
        let (compose, app, instance) = (ComposeHash([1; 32]), AppId([2; 20]), InstanceId([3; 20]));
        let events = boot_events(&compose, &app, Some(&instance));
        let seen: Vec<(&str, &[u8])> =
            events.iter().map(|e| (e.event.as_str(), e.payload.as_slice())).collect();
        assert_eq!(
            seen,
            [
                ("system-preparing", [].as_slice()),
                ("app-id", &[2; 20]),
                ("compose-hash", &[1; 32]),
                ("instance-id", &[3; 20]),
                ("boot-mr-done", &[]),
                ("key-provider", br#"{"name":"none","id":""}"#),
                ("system-ready", &[]),
            ]
        );
        let known = [
            (
                0,
                "f9974020ef507068183313d0ca808e0d1ca9b2d1ad0c61f5784e7157c362c06536f5ddacdad4451693f48fcc72fff624",
            ),
            (
                4,
                "98bd7e6bd3952720b65027fd494834045d06b4a714bf737a06b874638b3ea00ff402f7f583e3e3b05e921c8570433ac6",
            ),
            (
                5,
                "7f788209b6106d43ad4b0cef85797120c234f175a10b7cb609a73ec1f4285adfe7abca2e1e3d3bd2ba058c2b78d1771d",
            ),
            (
                6,
                "1a76b2a80a0be71eae59f80945d876351a7a3fb8e9fd1ff1cede5734aa84ea11fd72b4edfbb6f04e5a85edd114c751bd",
            ),
        ];
        for (index, digest) in known {
            assert_eq!(events[index].digest().to_string(), digest, "{}", events[index].event);
        }
    }

    #[test]
    fn an_app_without_an_instance_id_has_an_empty_payload() {
        let events = boot_events(&ComposeHash([1; 32]), &AppId([2; 20]), None);
        assert_eq!(events[3], RuntimeEvent::new("instance-id", []));
    }
}
