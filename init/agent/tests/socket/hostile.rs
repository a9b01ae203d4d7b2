//! Callers that do not want an answer.

use casemate_agent::{Callers, May};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::host::{Served, handover, parse};

const ALIVE: (u16, &str) = (200, r#"{"version":"1.2.3","rev":""}"#);

async fn assert_alive(served: &Served) {
    let (status, body) = served.get("/Version").await;
    assert_eq!((status, body.as_str()), ALIVE);
}

#[tokio::test]
async fn bodies_that_are_too_large_are_refused() {
    let served = Served::start();
    let declared = "POST /Info?json HTTP/1.1\r\nhost: x\r\ncontent-length: 10485761\r\n\r\n{";
    let (status, body) = parse(&served.raw(declared.as_bytes()).await);
    assert_eq!(status, 400);
    assert!(body.contains("request body: expected at most 10485760 bytes, found more"), "{body}");

    // Chunked: nothing is declared.
    let mut chunked = b"POST /Info?json HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    let chunk = [b"100000\r\n".as_slice(), &vec![b' '; 1 << 20], b"\r\n"].concat();
    (0..11).for_each(|_| chunked.extend(&chunk));
    chunked.extend(b"0\r\n\r\n");
    let (status, body) = parse(&served.raw(&chunked).await);
    assert_eq!(status, 400);
    assert!(body.contains("request body: expected at most 10485760 bytes, found more"), "{body}");

    // One that is just not too large is read.
    let full = format!("{{{}}}", " ".repeat((10 << 20) - 2));
    let (status, body) = served.post("Version", &full).await;
    assert_eq!((status, body.as_str()), ALIVE);
    assert_alive(&served).await;
}

#[tokio::test]
async fn broken_requests_are_refused_and_harm_nobody() {
    let served = Served::start();
    for request in [
        "\r\n\r\n".to_owned(),
        "GET\r\n\r\n".to_owned(),
        "GET /Version HTTP/9.9\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}".repeat(1000),
        format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(100_000)),
        format!("GET /Version HTTP/1.1\r\nhost: x\r\nlong: {}\r\n\r\n", "x".repeat(100_000)),
        format!("GET /Version HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(2000)),
        "POST /Version?json HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n".to_owned(),
        "POST /Version?json HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}x"
            .to_owned(),
        "POST /Version?json HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".to_owned(),
        "POST /Version?json HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{".to_owned(),
    ] {
        let answer = served.raw(request.as_bytes()).await;
        assert!(
            !answer.contains("200 OK"),
            "{}: {answer}",
            request.escape_debug().take(60).collect::<String>()
        );
    }
    for body in ["[", "\"", "[]", "nul", "{\"a\":1,\"a\":2}", "{\"report_data\":\"\\ud800\"}", "\u{0}", "{}}"]
    {
        let (status, answer) = served.post("GetQuote", body).await;
        assert_eq!(status, 400, "{body}");
        assert!(answer.starts_with("{\n  \"error\": \"request body: "), "{body}: {answer}");
    }
    let deep = format!("{{\"report_data\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(served.post("GetQuote", &deep).await.0, 400);
    assert_alive(&served).await;
}

#[tokio::test]
async fn a_callers_text_comes_back_escaped_and_short() {
    let served = Served::start();
    let (status, answer) = served.get(&format!("/%1b%5b31m{}", "y".repeat(5000))).await;
    assert_eq!(status, 400);
    assert!(answer.len() < 300, "{}", answer.len());
    let (_, answer) = served.post("GetKey", "{\"algorithm\":\"\\u001b[31m\\nx\"}").await;
    assert!(answer.contains("u{1b}") && !answer.contains('\u{1b}'), "{answer}");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let served = Served::start();
    let requests = "GET /Version HTTP/1.1\r\nhost: x\r\n\r\n".repeat(20)
        + "GET /Nothing HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answers = served.raw(requests.as_bytes()).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 20);
    assert!(answers.ends_with("found \\\"Nothing\\\"\"\n}"), "{answers}");
}

#[tokio::test]
async fn callers_that_vanish_give_their_place_back() {
    let served = Served::start();
    for round in 0..100 {
        let mut stream = UnixStream::connect(&served.socket).await.unwrap();
        match round % 4 {
            0 => {}
            1 => stream.write_all(b"GET /Vers").await.unwrap(),
            2 => stream.write_all(b"GET /Info HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap(),
            _ => {
                let head = b"POST /GetQuote?json HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n{";
                stream.write_all(head).await.unwrap();
                let mut nothing = [0; 1];
                let read = stream.read(&mut nothing);
                tokio::time::timeout(std::time::Duration::from_millis(5), read).await.unwrap_err();
            }
        }
        drop(stream);
        tokio::task::yield_now().await;
    }
    assert_alive(&served).await;
}

#[tokio::test]
async fn other_uids_are_refused() {
    // Whoever runs this test is not uid 4294967294.
    let served = Served::with(handover(), Callers::Uids([(u32::MAX - 1, May::Everything)].into()));
    let (status, body) = served.get("/Version").await;
    assert_eq!(status, 403);
    assert!(body.contains("may not use this socket"), "{body}");
    let refused = served.client().version().await.unwrap_err().to_string();
    assert!(refused.starts_with("Version: refused with status 403: uid "), "{refused}");
}

/// A caller that may have keys of its own gets these, and nothing else.
#[tokio::test]
async fn a_caller_gets_what_it_may_ask_for() {
    let own = nix::unistd::geteuid().as_raw();
    let served = Served::with(handover(), Callers::Uids([(own, May::KeysUnder("casemate/vpn/"))].into()));
    let (status, _) = served.post("GetKey", r#"{"path":"casemate/vpn/x/machine"}"#).await;
    assert_eq!(status, 200);
    for (method, arguments) in [
        ("GetKey", r#"{"path":"casemate/mesh"}"#),
        ("GetKey", "{}"),
        ("GetQuote", r#"{"report_data":"00"}"#),
        ("GetTlsKey", r#"{"usage_ra_tls":true}"#),
        ("GetTlsKey", "{}"),
        ("Info", "{}"),
    ] {
        let (status, body) = served.post(method, arguments).await;
        assert_eq!(status, 400, "{method} {arguments}");
        assert!(body.contains("may not ask for that"), "{body}");
    }
}
