#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on may panic")]

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use super::*;

fn status() -> Status {
    Status {
        state: "running".to_owned(),
        refusal: None,
        node: None,
        capability_version: 130,
        control: ControlStatus { connected: true, server_key: None, last_map_seconds: Some(3) },
        derp: DerpStatus::default(),
        endpoints: vec![],
        peers: vec![PeerStatus {
            name: "b\"\n.t".to_owned(),
            key: Public::new([2; 32]),
            addresses: vec![],
            path: PathStatus::Direct { address: "192.0.2.1:41641".parse().unwrap(), latency_us: Some(810) },
            last_handshake_seconds: Some(1),
            rx_bytes: 10,
            tx_bytes: 20,
            online: None,
        }],
        filter: FilterStatus { allow_all: false, rules: 1, dropped: [("no rule".to_owned(), 4)].into() },
        drops: BTreeMap::new(),
        dns: BTreeMap::new(),
    }
}

#[test]
fn metrics_are_lines_whatever_a_peer_is_called() {
    let text = metrics(&status());
    assert!(text.contains("casemate_vpn_peer_received_bytes_total{peer=\"b\\\"\\n.t\"} 10\n"), "{text}");
    assert!(text.contains("casemate_vpn_filter_dropped_packets_total{reason=\"no rule\"} 4\n"), "{text}");
    assert!(text.contains("casemate_vpn_peers{path=\"direct\"} 1\n"), "{text}");
    for line in text.lines() {
        assert!(line.starts_with("# ") || line.starts_with("casemate_vpn_"), "{line}");
    }
}

#[test]
fn peers_of_one_name_are_told_apart_by_their_keys() {
    let mut status = status();
    let mut second = status.peers[0].clone();
    // Keys that begin alike.
    let mut key = *second.key.bytes();
    key[31] = 3;
    (second.key, second.rx_bytes) = (Public::new(key), 77);
    status.peers.push(second);
    let mut third = status.peers[0].clone();
    third.name = "c.t".to_owned();
    third.last_handshake_seconds = None;
    status.peers.push(third);
    let text = metrics(&status);
    let series: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(series, _)| series)
        .collect();
    let different: std::collections::BTreeSet<&&str> = series.iter().collect();
    assert_eq!(different.len(), series.len(), "{text}");
    let key = status.peers[1].key;
    assert!(
        text.contains(&format!("received_bytes_total{{peer=\"b\\\"\\n.t\",key=\"{key}\"}} 77\n")),
        "{text}"
    );
    assert!(text.contains("received_bytes_total{peer=\"c.t\"} 10\n"), "{text}");
    assert_eq!(text.matches("casemate_vpn_peer_handshake_age_seconds{").count(), 2, "{text}");
}

#[test]
fn what_is_to_be_watched_of_ourselves_is_there_when_it_is_known() {
    let mut status = status();
    let text = metrics(&status);
    for absent in ["key_expiry", "refused{", "derp_home", "addresses_set"] {
        assert!(!text.contains(&format!("casemate_vpn_{absent}")), "{absent}: {text}");
    }
    status.node = Some(SelfStatus {
        name: "a.t".to_owned(),
        id: NodeId(1),
        key: Public::new([1; 32]),
        addresses: vec![],
        addresses_refused: Some("the kernel refused it".to_owned()),
        tags: vec![],
        key_expiry: Some("2030-01-01T00:00:00Z".to_owned()),
    });
    status.refusal = Some(Refusal { kind: "not-known".to_owned(), text: "x".to_owned() });
    status.derp = DerpStatus { home: Some(RegionId(999)), connected: vec![] };
    let text = metrics(&status);
    for line in [
        "casemate_vpn_key_expiry_timestamp_seconds 1893456000\n",
        "casemate_vpn_addresses_set 0\n",
        "casemate_vpn_refused{kind=\"not-known\"} 1\n",
        "casemate_vpn_derp_home_region 999\n",
        "casemate_vpn_derp_home_connected 0\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
}

#[test]
fn an_offered_key_is_taken_and_not_shown() {
    let request = r#"{"command":"offer","authkey":"hskey-auth-a-b"}"#;
    let request: Request = serde_json::from_str(request).unwrap();
    assert!(!format!("{request:?}").contains("hskey"));
    let Request::Offer { authkey } = request else { panic!("another request") };
    assert_eq!(authkey.expose(), "hskey-auth-a-b");
}

async fn exchange(asks: mpsc::Sender<Ask>, request: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let server = tokio::spawn(serve(UnixListener::bind(&path).unwrap(), asks));
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    server.abort();
    answer
}

#[tokio::test]
async fn a_request_is_a_line_and_each_answer_is_one() {
    let (asks, mut asked) = mpsc::channel::<Ask>(1);
    tokio::spawn(async move {
        let ask = asked.recv().await.unwrap();
        assert_eq!(ask.request, Request::Ping { name: "b".to_owned(), count: 2, until_direct: false });
        ask.answer.send("one".to_owned()).await.unwrap();
        ask.answer.send("two".to_owned()).await.unwrap();
    });
    let answer = exchange(asks, "{\"command\":\"ping\",\"name\":\"b\",\"count\":2}\n").await;
    assert_eq!(answer, "one\ntwo\n");
}

#[tokio::test]
async fn what_is_no_request_is_answered_and_never_asked() {
    for bad in [
        "{}\n",
        "\n",
        "{\"command\":\"stop\"}\n",
        "{\"command\":\"status\",\"x\":1}\n",
        &format!("{}\n", "[".repeat(4000)),
    ] {
        let (asks, mut asked) = mpsc::channel::<Ask>(1);
        let answer = exchange(asks, bad).await;
        assert!(answer.starts_with("{\"error\":\"expected a request, found "), "{bad:?}: {answer}");
        assert!(asked.recv().await.is_none());
    }
}
