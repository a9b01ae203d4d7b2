//! The rows.

use super::Accepts::{All, Only};
use super::Shape::{Any, Boolean, List, Text};
use super::Verdict::{Harmless, Honoured, NotImplemented};
use super::{Accepts, DstackField, Shape, Verdict};

const fn field(
    name: &'static str,
    default: Option<&'static str>,
    shape: Shape,
    accepts: Accepts,
    verdict: Verdict,
    why: &'static str,
) -> DstackField {
    DstackField { name, default, shape, accepts, verdict, why }
}

const NULL: Option<&str> = Some("null");
const FALSE: Option<&str> = Some("false");

/// Every field of `AppCompose` up to 0.6, and those that dstack's scripts read besides.
#[rustfmt::skip]
pub(in crate::document) const FIELDS: &[DstackField] = &[
    field("manifest_version", None, Any, Only(&["1", "2", "\"1\"", "\"2\"", "\"3\""]), Honoured, "what later ones add is judged field by field"),
    field("name", None, Text, All { max: 128 }, Honoured, "shown by the agent"),
    field("features", Some("[]"), List, Only(&["[]"]), NotImplemented, "old switches for KMS and gateway"),
    field("runner", None, Text, Only(&["\"casemate\""]), Honoured, "the workload is casemate.services"),
    field("snapshotter", NULL, Text, Only(&["null"]), Harmless, "there are no containers"),
    field("docker_compose_file", NULL, Text, Only(&["null"]), Harmless, "there are no containers"),
    field("bash_script", NULL, Text, Only(&["null"]), Harmless, "there is no shell"),
    field("pre_launch_script", NULL, Text, Only(&["null"]), Harmless, "there is no shell"),
    field("init_script", NULL, Any, Only(&["null", "[]"]), Harmless, "there is no shell"),
    field("public_logs", FALSE, Boolean, Only(&["false"]), NotImplemented, "logs leave by casemate.logs.readers only"),
    field("public_sysinfo", FALSE, Boolean, Only(&["false"]), NotImplemented, "port 8090 is not served"),
    field("public_tcbinfo", Some("true"), Boolean, All { max: 0 }, Harmless, "a permission; port 8090 is not served"),
    field("kms_enabled", FALSE, Boolean, Only(&["false"]), NotImplemented, "the only key provider is none"),
    field("gateway_enabled", FALSE, Boolean, Only(&["false"]), NotImplemented, "there is no gateway client"),
    field("tproxy_enabled", FALSE, Boolean, Only(&["false"]), NotImplemented, "the old name of gateway_enabled"),
    field("local_key_provider_enabled", FALSE, Boolean, Only(&["false"]), NotImplemented, "the only key provider is none"),
    field("key_provider", NULL, Text, Only(&["null", "\"none\""]), NotImplemented, "the only key provider is none; null follows the two booleans"),
    field("key_provider_id", Some("\"\""), Text, Only(&["\"\""]), NotImplemented, "there is no provider to pin"),
    field("allowed_envs", Some("[]"), List, Only(&["[]"]), NotImplemented, "there is no encrypted environment"),
    field("no_instance_id", FALSE, Boolean, Only(&["false"]), NotImplemented, "each boot has an instance id"),
    field("secure_time", Some("true"), Boolean, Only(&["true", "false"]), Honoured, "true waits for a first authenticated time, so it needs servers in casemate.time.nts"),
    field("storage_fs", NULL, Text, Only(&["null"]), NotImplemented, "there is no data disk"),
    field("swap_size", Some("0"), Any, Only(&["0", "\"0\""]), NotImplemented, "there is no swap"),
    field("event_log_version", Some("1"), Any, Only(&["1"]), NotImplemented, "dstack 0.5 reads version 1 only"),
    field("port_policy", NULL, Any, Only(&["null", r#"{"ports": [], "restrict_mode": false}"#]), NotImplemented, "carried out by a gateway"),
    field("requirements", NULL, Any, Only(&["null"]), NotImplemented, "none is checked"),
    field("verity_volumes", Some("[]"), List, Only(&["[]"]), NotImplemented, "there are no volumes"),
];
