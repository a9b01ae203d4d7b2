//! The rows.

use super::Carried::{No, Only, Where, Yes};
use super::Kind::{Boolean, Integer, Map, Object, TextOrObject, Word};
use super::{Carried, Key, Kind};
use crate::document::json::Value;

const APP_ID: &str = "40 hex digits";
const DIGEST: &str = "64 hex digits";
const REGISTER: &str = "96 hex digits";
const LABEL: &str = "DNS label";
const DNS_NAME: &str = "DNS name";
const SOCKET: &str = "IP:PORT";
const TAG: &str = "tag:NAME";
const PATH: &str = "absolute path without . and ..";
const SIZE: &str = "size such as \"64K\", \"16M\", \"1G\"";
const PORT: Kind = Integer { min: 1, max: 65_535 };

const fn text(max: usize, form: &'static str) -> Kind {
    Kind::Text { max, form }
}

const fn list(min: usize, max: usize) -> Kind {
    Kind::List { min, max }
}

const fn key(
    path: &'static str,
    kind: Kind,
    default: Option<&'static str>,
    carried: Carried,
    meaning: &'static str,
) -> Key {
    Key { path, kind, default, carried, meaning }
}

fn is_no_tag(value: &Value) -> bool {
    !matches!(value, Value::Text(text) if text.starts_with("tag:"))
}

fn is_no_operators(value: &Value) -> bool {
    !matches!(value, Value::Text(text) if text == "operators")
}

/// Services have no IPv6.
fn is_no_ipv6(value: &Value) -> bool {
    !matches!(value, Value::Text(text) if text.contains(':'))
}

/// The physical link has no IPv6 address.
fn is_ipv4_socket(value: &Value) -> bool {
    !matches!(value, Value::Text(text) if text.starts_with('['))
}

/// The physical link has no IPv6 address, and no server is in the machine itself.
fn is_elsewhere(value: &Value) -> bool {
    let Value::Text(text) = value else { return true };
    let local = |host: &str| {
        host == "localhost" || host.parse().is_ok_and(|address: std::net::Ipv4Addr| address.is_loopback())
    };
    crate::document::forms::url_host(text).is_some_and(|host| !host.contains(':') && !local(host))
}

const NULL: Option<&str> = Some("null");
const EMPTY: Option<&str> = Some("[]");
const FIELDS: Option<&str> = Some("{}");

/// Every key, in the order of design section 3.
#[rustfmt::skip]
pub(crate) const KEYS: &[Key] = &[
    key("version", Integer { min: 1, max: 1 }, None, Yes, "version of the section"),
    key("role", Word(&["node", "server"]), Some("\"node\""), Only(&["\"node\""]), "what this machine is"),
    key("node", Object, None, Yes, "who it is on the network"),
    key("node.name", text(63, LABEL), None, Yes, "its name"),
    key("node.type", text(63, LABEL), None, Yes, "what discovery finds it by"),
    key("network", Object, FIELDS, Yes, "the physical link"),
    key("network.mode", Word(&["dhcp", "static"]), Some("\"dhcp\""), Yes, "where its address comes from"),
    key("network.address", text(18, "IPv4 ADDRESS/PREFIX"), NULL, Yes, "its address; with `static`, and only then"),
    key("network.gateway", text(15, "IPv4 address"), NULL, Yes, "the gateway, inside the prefix; with `static`, and only then"),
    key("dns", Object, FIELDS, Yes, "names outside the private network"),
    key("dns.resolvers", list(0, 8), EMPTY, Yes, "authenticated resolvers, in order of preference, for the names of the login server and of relays; with `tunnel`, and only then"),
    key("dns.resolvers[]", Object, None, Yes, "one resolver"),
    key("dns.resolvers[].kind", Word(&["dot", "doh"]), None, Only(&["\"dot\""]), "DNS over TLS or over HTTPS"),
    key("dns.resolvers[].address", text(64, SOCKET), None, Where(is_ipv4_socket, "IPv4"), "where it listens"),
    key("dns.resolvers[].name", text(253, DNS_NAME), None, Yes, "the name that its certificate carries"),
    key("time", Object, FIELDS, Yes, "the clock"),
    key("time.nts", list(0, 8), EMPTY, Yes, "authenticated time servers, more than half of which must agree; none: the host's clock, said so in status"),
    key("time.nts[]", Object, None, Yes, "one server"),
    key("time.nts[].address", text(64, SOCKET), None, Where(is_ipv4_socket, "IPv4"), "where its key exchange listens, one IP address each; its NTP is UDP port 123 there"),
    key("time.nts[].name", text(253, DNS_NAME), None, Yes, "the name that its certificate carries"),
    key("collateral", Object, FIELDS, Yes, "what quotes are verified with"),
    key("collateral.pccs", Object, NULL, Yes, "a PCCS to fetch our own from; `null`: whoever calls may bring it"),
    key("collateral.pccs.url", text(512, "https:// URL"), None, Yes, "its base URL; `/sgx` and `/tdx` come behind it"),
    key("collateral.pccs.address", text(64, SOCKET), None, Where(is_ipv4_socket, "IPv4"), "where it listens, on the URL's port; its host is never looked up"),
    key("collateral.max_age_days", Integer { min: 1, max: 365 }, Some("30"), Yes, "how long ago it may have been issued, in days"),
    key("gateway", Object, NULL, Only(&["null"]), "the dstack gateway"),
    key("gateway.domain", text(253, DNS_NAME), None, No, "the domain under which apps are reached"),
    key("gateway.addresses", list(1, 8), None, No, "where it listens"),
    key("gateway.addresses[]", text(64, SOCKET), None, No, "one address"),
    key("vpn", Object, FIELDS, Yes, "the private network"),
    key("vpn.mode", Word(&["tunnel", "direct"]), Some("\"tunnel\""), Yes, "with a VPN, or without: gateway or fixed targets"),
    key("vpn.server_app_id", text(40, "\"self\" or 40 hex digits"), Some("\"self\""), Only(&["\"self\""]), "whose registration API to call"),
    key("vpn.login_server", Object, NULL, Yes, "a plain Headscale instead of a VPC server; with `tunnel`, and only then; null with `tunnel`, which is registration at a VPC server, is not carried out yet"),
    key("vpn.login_server.url", text(512, "https://HOST or https://HOST:PORT (or http://, to loopback or with plain_http)"), None, Where(is_elsewhere, "another machine's IPv4 address or DNS name as host; the link has no IPv6"), "its address; a name needs `dns.resolvers`, and its certificate must carry it unless `noise_key` is pinned"),
    key("vpn.login_server.noise_key", text(69, "mkey: and 64 hex digits"), NULL, Yes, "its key, pinned; needed with `plain_http`"),
    key("vpn.login_server.plain_http", Boolean, Some("false"), Yes, "whether http:// may go to another machine"),
    key("vpn.login_server.authkey", TextOrObject { max: 512, form: "pre-auth key" }, None, Yes, "the key that joins; whoever can read the document can use it, so it should be for one node, tagged and short-lived"),
    key("vpn.login_server.authkey.env", text(128, "environment variable name"), None, No, "the name among dstack's allowed_envs that carries it"),
    key("vpn.prefixes", list(1, 8), Some(r#"["100.64.0.0/10", "fd7a:115c:a1e0::/48"]"#), Yes, "addresses of the private network, inside the default or (with a warning) 100.128.0.0/10; whom the machine calls by its link, and its address there, are outside of them; `direct` uses none"),
    key("vpn.prefixes[]", text(43, "IP prefix"), None, Yes, "one prefix"),
    key("vpn.derp_pins", Map { max: 64, keys: DNS_NAME }, FIELDS, Yes, "DERP servers by their certificate; with `tunnel`, and only then"),
    key("vpn.derp_pins.*", text(64, DIGEST), None, Yes, "SHA-256 of the certificate"),
    key("vpn.derp_ports", list(0, 8), Some("[443]"), Yes, "TCP ports that DERP servers may have, wherever the map says they are; none: they are not used; another list than the default with `tunnel` only"),
    key("vpn.derp_ports[]", PORT, None, Yes, "one port, each once; not 53"),
    key("vpn.require_policy", Boolean, Some("true"), Yes, "refuse a network map without a packet filter; false with `tunnel` only"),
    key("egress", Object, FIELDS, Yes, "what may leave"),
    key("egress.mode", Word(&["internal-only", "allowlist", "external-allowed"]), Some("\"internal-only\""), Yes, "the mode, which also picks the tag"),
    key("egress.allow", list(0, 256), EMPTY, Yes, "the list; with `allowlist`, and only then"),
    key("egress.allow[]", Object, None, Yes, "one destination: `host` or `cidr`"),
    key("egress.allow[].host", text(253, DNS_NAME), NULL, Only(&["null"]), "a name, resolved in the guest"),
    key("egress.allow[].cidr", text(43, "IP prefix"), NULL, Where(is_no_ipv6, "IPv4"), "a prefix, clear of 198.18.0.0/15"),
    key("egress.allow[].port", PORT, None, Yes, "the port"),
    key("egress.allow[].proto", Word(&["tcp", "udp"]), Some("\"tcp\""), Yes, "the protocol"),
    key("egress.log_denied", Boolean, Some("false"), Only(&["false"]), "log denied packets too; they are always counted"),
    key("mesh", Object, FIELDS, Yes, "who may call whom"),
    key("mesh.backends", list(0, 64), EMPTY, Yes, "what is served"),
    key("mesh.backends[]", Object, None, Yes, "one listener"),
    key("mesh.backends[].listen", PORT, None, Yes, "its port, unique"),
    key("mesh.backends[].kind", Word(&["http", "tcp"]), None, Only(&["\"http\""]), "HTTP, or bytes"),
    key("mesh.backends[].to", text(69, "SERVICE:PORT"), None, Yes, "a service and one of its ports"),
    key("mesh.backends[].allow", list(1, 64), None, Yes, "who may call"),
    key("mesh.backends[].allow[]", text(67, "\"any\", 40 hex digits or tag:NAME"), None, Where(is_no_tag, "\"any\" and app ids"), "any app of an acceptable image, one app, or apps with a tag"),
    key("mesh.forwards", list(0, 64), EMPTY, Only(&["[]"]), "TCP ports inside services that lead to other apps"),
    key("mesh.forwards[]", Object, None, No, "one forward"),
    key("mesh.forwards[].service", text(63, LABEL), None, No, "inside which service it listens"),
    key("mesh.forwards[].listen", PORT, None, No, "its port on 127.0.0.1 there"),
    key("mesh.forwards[].app_id", text(40, APP_ID), None, No, "the target app"),
    key("mesh.forwards[].port", PORT, None, No, "the target port"),
    key("mesh.targets", Map { max: 256, keys: APP_ID }, FIELDS, Yes, "apps at fixed addresses, where there is neither VPN nor gateway"),
    key("mesh.targets.*", text(64, SOCKET), None, Yes, "its address"),
    key("mesh.verify", Word(&["ca", "quote", "ca+quote"]), Some("\"quote\""), Only(&["\"quote\""]), "how a peer is verified; `ca` needs a KMS or a container"),
    key("mesh.images", list(0, 16), EMPTY, Yes, "whose code is acceptable; needed with `quote` and any backend, forward or target"),
    key("mesh.images[]", TextOrObject { max: 4, form: "\"same\"" }, None, Yes, "our own image, or explicit registers"),
    key("mesh.images[].mrtd", text(96, REGISTER), NULL, Yes, "MRTD; absent: not compared"),
    key("mesh.images[].rtmr0", text(96, REGISTER), NULL, Yes, "RTMR0; absent: not compared"),
    key("mesh.images[].rtmr1", text(96, REGISTER), NULL, Yes, "RTMR1; absent: not compared"),
    key("mesh.images[].rtmr2", text(96, REGISTER), None, Yes, "RTMR2: command line and initramfs; not zero"),
    key("mesh.tls_min", Word(&["1.2", "1.3"]), Some("\"1.3\""), Yes, "the lowest TLS version"),
    key("logs", Object, FIELDS, Yes, "the log rings"),
    key("logs.readers", list(0, 64), EMPTY, Yes, "who may read them, on the backends' ports; empty: nobody"),
    key("logs.readers[]", text(40, "\"operators\" or 40 hex digits"), None, Where(is_no_operators, "app ids"), "the operators, or an app; needs a backend"),
    key("operators", Object, FIELDS, Yes, "people who may act on the machine"),
    key("operators.certificates", list(0, 64), EMPTY, Only(&["[]"]), "by their certificates"),
    key("operators.certificates[]", Object, None, No, "one operator"),
    key("operators.certificates[].sha256", text(64, DIGEST), None, No, "SHA-256 of the DER certificate"),
    key("operators.certificates[].projects", list(1, 64), None, No, "projects to act for"),
    key("operators.certificates[].projects[]", text(63, LABEL), None, No, "one project"),
    key("server", Object, NULL, Only(&["null"]), "the VPC server's part; with role `server`, and only then"),
    key("server.allowed_apps", Map { max: 1024, keys: APP_ID }, None, No, "who may join"),
    key("server.allowed_apps.*", Object, None, No, "one app"),
    key("server.allowed_apps.*.tags", list(1, 16), None, No, "tags that it may have"),
    key("server.allowed_apps.*.tags[]", text(67, TAG), None, No, "one tag"),
    key("server.headscale", Object, Some(r#"{"kind": "bundled"}"#), No, "the coordination server"),
    key("server.headscale.kind", Word(&["bundled", "external"]), None, No, "ours, or somebody's"),
    key("server.headscale.address", text(64, SOCKET), NULL, No, "where it is; with `external`, and only then"),
    key("server.ephemeral", Boolean, Some("false"), No, "run without a KMS: its state dies with the machine"),
    key("services", list(0, 63), EMPTY, Yes, "the workload; number *n*, from 1, has 198.18.*n*.0/30"),
    key("services[]", Object, None, Yes, "one service"),
    key("services[].name", text(63, LABEL), None, Yes, "its name, unique, and none of our processes'"),
    key("services[].exec", list(1, 64), None, Yes, "program (absolute, inside `rootfs`) and arguments"),
    key("services[].exec[]", text(4096, "text without NUL"), None, Yes, "one of them"),
    key("services[].rootfs", text(63, LABEL), None, Yes, "the image's workload directory that becomes its root"),
    key("services[].uid", Integer { min: 1000, max: 65_533 }, None, Yes, "its uid and gid, unique"),
    key("services[].env", Map { max: 128, keys: "environment variable name" }, FIELDS, Yes, "its whole environment"),
    key("services[].env.*", text(4096, "text without NUL"), None, Yes, "one value"),
    key("services[].ports", list(0, 64), EMPTY, Yes, "ports that it listens on, for the mesh only; not 8888"),
    key("services[].ports[]", PORT, None, Yes, "one port"),
    key("services[].tmpfs", Map { max: 16, keys: PATH }, FIELDS, Yes, "writable mounts in memory; not in /proc, /sys, /dev"),
    key("services[].tmpfs.*", text(16, SIZE), None, Yes, "its size, 4K to 64G"),
    key("services[].restart", Word(&["always", "on-failure", "never"]), Some("\"always\""), Yes, "when it is started again"),
    key("services[].memory_max", text(16, SIZE), Some("\"256M\""), Yes, "its memory, 1M to 1024G"),
    key("services[].pids_max", Integer { min: 1, max: 32_768 }, Some("128"), Yes, "its processes and threads"),
    key("services[].cpu_max", Integer { min: 1, max: 25_600 }, Some("100"), Yes, "its processor time, in percent of one CPU"),
    key("services[].dstack", Object, NULL, Yes, "what it may ask of the guest agent, through the outbound proxy; null: nothing"),
    key("services[].dstack.get_key", list(0, 64), EMPTY, Yes, "key paths that it may derive"),
    key("services[].dstack.get_key[]", text(128, "key path, perhaps with * at its end"), None, Yes, "one path; a `*` at the end is any rest"),
    key("services[].dstack.quote", Word(&["none", "app-data", "raw"]), Some("\"none\""), Yes, "quotes that it may ask for; with `raw` it can speak as the appliance"),
];
