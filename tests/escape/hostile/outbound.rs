//! The service's own outbound proxy: it leads to measured apps, of which there are none here, and never to the agent.

use crate::case::{Case, HTTP, case};
use crate::reach::ask_outbound;

/// No target, or one that is none; and one that is not in the document. The proxy itself answers so.
const NO_TARGET: &[i32] = &[HTTP + 400];
const NOT_MEASURED: &[i32] = &[HTTP + 403];

pub(crate) const CASES: &[Case] = &[
    case("outbound-quote", NO_TARGET, || post("/GetQuote", "dstack")),
    case("outbound-quote-by-socket-name", NO_TARGET, || post("/GetQuote", "dstack.sock")),
    case("outbound-quote-by-path", NO_TARGET, || post("/GetQuote", "unix:/var/run/dstack.sock")),
    case("outbound-quote-by-address", NO_TARGET, || post("/GetQuote", "127.0.0.1")),
    case("outbound-quote-without-host", NO_TARGET, || post("/GetQuote", "")),
    case("outbound-quote-of-tappd", NO_TARGET, || post("/prpc/Tappd.TdxQuote?json", "localhost")),
    case("outbound-raw-quote", NO_TARGET, || post("/prpc/Tappd.RawQuote?json", "localhost")),
    case("outbound-key", NO_TARGET, || post("/GetKey", "dstack")),
    case("outbound-tls-key", NO_TARGET, || post("/GetTlsKey", "dstack")),
    case("outbound-sign", NO_TARGET, || post("/Sign", "dstack")),
    case("outbound-info", NO_TARGET, || ask("GET /Info", "dstack", "")),
    case("outbound-event", NO_TARGET, || post("/EmitEvent", "dstack")),
    // The whole address in the first line, as proxies are asked.
    case("outbound-quote-absolute", NO_TARGET, || post("http://dstack.sock/GetQuote", "dstack.sock")),
    case("outbound-elsewhere", NO_TARGET, || ask("GET http://1.1.1.1/", "1.1.1.1", "")),
    case("outbound-tunnel", NO_TARGET, || ask("CONNECT 1.1.1.1:443", "1.1.1.1:443", "")),
    // Names that would be a route, were they believed: the gateway's, the VPN's.
    case("outbound-gateway-name", NO_TARGET, || post("/", &format!("{APP}-443s.gateway.example"))),
    case("outbound-vpn-name", NO_TARGET, || post("/", "vpc-server.vpc.internal:8080")),
    case("outbound-unmeasured-app", NOT_MEASURED, || ask("GET /", "x", &format!("{TARGET}: {APP}\r\n"))),
    case("outbound-no-app", NO_TARGET, || ask("GET /", "x", &format!("{TARGET}: \r\n"))),
    case("outbound-agent-as-app", NO_TARGET, || ask("GET /", "x", &format!("{TARGET}: dstack.sock\r\n"))),
    case("outbound-two-apps", NO_TARGET, || {
        ask("GET /", "x", &format!("{TARGET}: {APP}\r\n{TARGET}: {APP}\r\n"))
    }),
    case("outbound-without-tls", NO_TARGET, || {
        ask("GET /", "x", &format!("{TARGET}: {APP}\r\nx-dstack-use-tls: false\r\n"))
    }),
];

/// The header that names a target, and an app that nobody measured.
const TARGET: &str = "x-dstack-target-app";
const APP: &str = "0707070707070707070707070707070707070707";

fn post(path: &str, host: &str) -> Result<String, i32> {
    ask(&format!("POST {path}"), host, "content-type: application/json\r\ncontent-length: 2\r\n")
}

fn ask(what: &str, host: &str, headers: &str) -> Result<String, i32> {
    let body = if headers.contains("content-length") { "{}" } else { "" };
    ask_outbound(&format!("{what} HTTP/1.1\r\nhost: {host}\r\n{headers}\r\n{body}"))
}
