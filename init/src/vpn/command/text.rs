//! What a person reads. Names and texts come from the network: nothing of them acts on a terminal.

use serde_json::Value;

use crate::status::command::{plain, show};

/// Everything, a path and its value in each line.
pub(super) fn plain_lines(document: &Value) -> String {
    let mut text = String::new();
    show(&mut text, "", document);
    text
}

/// The node, then a line for each peer.
pub(super) fn status(document: &Value) -> String {
    let mut text = String::new();
    let at = |pointer: &str| document.pointer(pointer).map_or_else(|| "-".to_owned(), plain);
    let list = |pointer: &str| words(document.pointer(pointer));
    let mut line = |name: &str, words: String| text.push_str(&format!("{name:<12}  {words}\n"));
    line("state", at("/state"));
    if document.pointer("/refusal").is_some_and(Value::is_object) {
        line("refusal", format!("{}: {}", at("/refusal/kind"), at("/refusal/text")));
    }
    line("self", format!("{}  {}", at("/self/name"), list("/self/addresses")));
    if document.pointer("/self/addresses_refused").is_some_and(Value::is_string) {
        line("not set", at("/self/addresses_refused"));
    }
    line("tags", list("/self/tags"));
    line("key expiry", at("/self/key_expiry"));
    let connected = document.pointer("/control/connected") == Some(&Value::Bool(true));
    let last = match document.pointer("/control/last_map_seconds") {
        Some(Value::Number(seconds)) => format!(", last heard of {seconds} s ago"),
        _ => String::new(),
    };
    let control = if connected { "connected" } else { "not connected" };
    line(
        "control",
        format!(
            "{control}{last}, {}, capability version {}",
            at("/control/server_key"),
            at("/capability_version")
        ),
    );
    line("derp", format!("home {}, connected {}", at("/derp/home"), list("/derp/connected")));
    line("endpoints", list("/endpoints"));
    let allow_all = document.pointer("/filter/allow_all") == Some(&Value::Bool(true));
    let rules =
        if allow_all { "lets everything in".to_owned() } else { format!("{} rules", at("/filter/rules")) };
    line("filter", format!("{rules}, dropped {}", counters(document.pointer("/filter/dropped"))));
    line("drops", counters(document.pointer("/drops")));
    line("dns", counters(document.pointer("/dns")));
    for peer in document.pointer("/peers").and_then(Value::as_array).into_iter().flatten() {
        let of = |pointer: &str| peer.pointer(pointer).map_or_else(|| "-".to_owned(), plain);
        let handshake = match peer.pointer("/last_handshake_seconds") {
            Some(Value::Number(seconds)) => format!("handshake {seconds} s ago"),
            _ => "no handshake".to_owned(),
        };
        let online = match peer.pointer("/online") {
            Some(Value::Bool(true)) => ", online",
            Some(Value::Bool(false)) => ", offline",
            _ => "",
        };
        let words = format!(
            "{}  {}  {}, {handshake}, received {} B, sent {} B{online}",
            of("/name"),
            words(peer.pointer("/addresses")),
            path(peer.pointer("/path")),
            of("/rx_bytes"),
            of("/tx_bytes"),
        );
        line("peer", words);
    }
    text
}

/// One line of a ping.
pub(super) fn ping(line: &Value) -> String {
    let at = |pointer: &str| line.pointer(pointer).map_or_else(|| "-".to_owned(), plain);
    if is_answer(line) {
        format!(
            "pong from {} by {} in {}",
            at("/name"),
            path(line.pointer("/path")),
            time(line.pointer("/latency_us"))
        )
    } else {
        format!("no answer from {}", at("/name"))
    }
}

/// Whether a peer answered.
pub(super) fn is_answer(line: &Value) -> bool {
    line.pointer("/latency_us").is_some_and(Value::is_u64)
}

/// Whether it did so on a direct path.
pub(super) fn is_direct(line: &Value) -> bool {
    is_answer(line) && line.pointer("/path/kind").and_then(Value::as_str) == Some("direct")
}

fn path(value: Option<&Value>) -> String {
    let at = |name: &str| value.and_then(|value| value.get(name)).map_or_else(|| "-".to_owned(), plain);
    match value.and_then(|value| value.get("kind")).and_then(Value::as_str) {
        Some("direct") => match value.and_then(|value| value.get("latency_us")) {
            latency @ Some(Value::Number(_)) => format!("direct {} ({})", at("address"), time(latency)),
            _ => format!("direct {}", at("address")),
        },
        Some("relayed") => match value.and_then(|value| value.get("latency_us")) {
            latency @ Some(Value::Number(_)) => format!("relay {} ({})", at("region"), time(latency)),
            _ => format!("relay {}", at("region")),
        },
        _ => "no path".to_owned(),
    }
}

fn time(value: Option<&Value>) -> String {
    match value.and_then(Value::as_u64) {
        Some(microseconds) => format!("{}.{:03} ms", microseconds / 1000, microseconds % 1000),
        None => "-".to_owned(),
    }
}

fn words(value: Option<&Value>) -> String {
    match value.and_then(Value::as_array) {
        Some(items) if !items.is_empty() => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        _ => "none".to_owned(),
    }
}

/// Those that have counted something.
fn counters(value: Option<&Value>) -> String {
    let counted = value.and_then(Value::as_object).into_iter().flatten();
    let counted = counted.filter(|(_, number)| number.as_u64() != Some(0));
    let words: Vec<String> = counted
        .map(|(name, number)| format!("{} {}", plain(&Value::from(name.as_str())), plain(number)))
        .collect();
    if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
}
