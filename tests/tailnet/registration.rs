//! A key that comes from a VPC server, of which there is a stub of the answer until it exists: ours registers, joins a real Headscale
//! with what it was given, and leaves alone who refuses it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::built::Release;
use crate::headscale::{Headscale, KeyFor, Options, TAG};
use crate::net::{Host, Net, Segment};
use crate::ours::{self, Ours};
use crate::wait::{s, until};

/// How long whoever is refused is looked at.
const LOOK: Duration = s(240);
/// The app-compose document, whose bytes are what counts.
const DOCUMENT: &str = "{ \"docker_compose_file\" : \"\\u00e9\",\n  \"casemate\": {} }\n";
/// Where the VPC server listens that is away at first.
const LATE: u16 = 8000;
/// The longest answer that a node reads.
const MAX_ANSWER: usize = 64 * 1024;

/// What came: when, its first line, its body.
type Seen = (Instant, String, String);

/// The VPC server's `/api/register`, on a host of its own. It closes when it is dropped.
struct Vpc {
    url: String,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Vpc {
    /// Answers each request with what this makes of its number: the status and headers, and the body.
    fn open(
        host: &Host,
        port: u16,
        mut answer: impl FnMut(usize) -> (String, String) + Send + 'static,
    ) -> Self {
        let listener = host.inside(|| TcpListener::bind((host.v4, port)).unwrap());
        let address: SocketAddr = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stopped, noted) = (Arc::clone(&stop), Arc::clone(&seen));
        thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let Ok((mut stream, _)) = listener.accept() else {
                    thread::sleep(Duration::from_millis(20));
                    continue;
                };
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(s(10))).unwrap();
                // Counted when it is there, whatever becomes of it.
                let (line, body) = request(&mut stream);
                let number = {
                    let mut seen = noted.lock().unwrap();
                    seen.push((Instant::now(), line, body));
                    seen.len()
                };
                let (head, body) = answer(number);
                let length = body.len();
                // Who has had enough closes early.
                drop(write!(stream, "HTTP/1.1 {head}\r\nContent-Length: {length}\r\n\r\n{body}"));
            }
        });
        Self { url: format!("http://{address}/api/register"), stop, seen }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Vpc {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The first line and the body; what does not come in time is not there.
fn request(stream: &mut TcpStream) -> (String, String) {
    let (mut received, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&received).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().unwrap())
            });
            if body.len() >= length.unwrap_or_default() {
                return (head.lines().next().unwrap().to_owned(), body.to_owned());
            }
        }
        match stream.read(&mut buffer) {
            Ok(size @ 1..) => received.extend_from_slice(&buffer[..size]),
            _ => return (text, String::new()),
        }
    }
}

/// The server's Noise key, as it shows it to everybody.
fn noise_key(server: &Headscale) -> String {
    let said = server.host.inside(|| {
        let mut stream = TcpStream::connect((server.host.v4, crate::headscale::PORT)).unwrap();
        stream.set_read_timeout(Some(s(10))).unwrap();
        write!(stream, "GET /key?v=130 HTTP/1.0\r\nHost: x\r\n\r\n").unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        said
    });
    let body: Value = serde_json::from_str(said.split_once("\r\n\r\n").unwrap().1).unwrap();
    body["publicKey"].as_str().unwrap().to_owned()
}

fn answer(server: &Headscale, key: &str, noise_key: &str) -> String {
    json!({
        "pre_auth_key": key, "shared_key": "c2VjcmV0", "server_url": server.url(), "noise_key": noise_key,
        "prefixes": ["100.64.0.0/10", "fd7a:115c:a1e0::/48"],
    })
    .to_string()
}

/// A node that knows where to register, and nothing of the login server.
fn config(host: &Host, server: &Headscale, url: &str) -> Value {
    let document = host.folder.join("app-compose.json");
    fs::write(&document, DOCUMENT).unwrap();
    let mut config = ours::config(host, server, "");
    config.as_object_mut().unwrap().remove("login_server");
    config["registration"] =
        json!({ "url": url, "document": document, "node_type": "rag", "plain_http": true });
    config
}

#[test]
fn ours_registers_joins_and_does_not_ask_again() {
    let mut net = Net::new(Segment::Private);
    let server = Headscale::start(&net.host("headscale"), Release::V0_29, Options::default());
    let pin = noise_key(&server);
    let [first, second] = [(); 2].map(|()| server.key(KeyFor::default()));
    let keys = [first.clone(), second.clone()];
    let given = keys.clone().map(|key| answer(&server, &key, &pin));
    let vpc = Vpc::open(&net.host("vpc"), 0, move |number| {
        ("200 OK".to_owned(), given.get(number - 1).cloned().unwrap_or_default())
    });
    let host = net.host("node-a");
    let mut node = Ours::start(&host, &config(&host, &server, &vpc.url));
    let running = node.running(s(60));
    assert_eq!(running["control"]["server_key"], json!(pin));
    assert_eq!(running["self"]["tags"], json!([TAG]));
    assert_eq!(server.node("node-a").unwrap().tags, [TAG]);
    let seen = vpc.seen();
    assert_eq!(seen.len(), 1, "{seen:?}");
    let (_, line, body) = &seen[0];
    let query = line.strip_prefix("POST /api/register?instance_id=").unwrap();
    let (instance, rest) = query.split_once('&').unwrap();
    assert!(instance.len() == 64 && instance.bytes().all(|b| b.is_ascii_hexdigit()), "{line}");
    assert_eq!((rest, body.as_str()), ("node_name=node-a&node_type=rag HTTP/1.1", DOCUMENT));

    // Who is known joins without asking: also when the process dies, and over a restart of all of it.
    let child = node.child();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.try_into().unwrap()), Signal::SIGKILL).unwrap();
    until(s(30), "another child", || (node.child() != child).then_some(()));
    node.comes_in(s(60));
    node.process().signal(Signal::SIGTERM);
    assert!(node.process().end(s(10)).success());
    node.restart();
    node.comes_in(s(60));
    assert_eq!(node.status().unwrap()["self"], running["self"]);
    assert_eq!((vpc.seen().len(), server.nodes().len()), (1, 1));

    // Whom the server has forgotten asks once, and is in again.
    node.process().signal(Signal::SIGTERM);
    node.process().end(s(10));
    server.delete(&server.node("node-a").unwrap());
    node.restart();
    until(s(120), "the node's return", || server.node("node-a"));
    node.comes_in(s(60));
    assert_eq!(vpc.seen().len(), 2);
    let said = fs::read_to_string(host.folder.join("vpn.log")).unwrap();
    assert!(!said.contains("hskey-") && keys.iter().all(|key| !said.contains(key.as_str())), "{said}");
}

/// One node for each way to be refused, looked at together, since they mostly wait; a part of the test of all who are refused.
pub(crate) fn the_refused_leave_the_vpc_server_alone() {
    let mut net = Net::new(Segment::Private);
    let server = Headscale::start(&net.host("headscale"), Release::V0_29, Options::default());
    let pin = noise_key(&server);
    let other = format!("mkey:{}", "0a".repeat(32));
    let used = server.key(KeyFor { expires: "1s", ..KeyFor::default() });
    thread::sleep(s(2));
    let always = |head: &str, body: String| (head.to_owned(), body);
    let good = answer(&server, &server.key(KeyFor::default()), &pin);
    // What it is, what is answered, the node's state, its words, and how many requests there may be.
    let cases = [
        (
            "forbidden",
            always("403 Forbidden", "not this app".into()),
            "refused",
            "registration-refused",
            1..=1,
        ),
        ("long", always("200 OK", " ".repeat(MAX_ANSWER + 1)), "refused", "registration-answer", 1..=1),
        (
            "pinned",
            always("200 OK", answer(&server, "hskey-auth-x-y", &other)),
            "pin-mismatch",
            "registration-pin-mismatch",
            1..=1,
        ),
        (
            "limited",
            always("429 Too Many Requests\r\nRetry-After: 100", String::new()),
            "refused",
            "registration-limited",
            2..=3,
        ),
        // The VPC server gives a key, and Headscale refuses it: another one may be better, once a minute.
        ("expired", always("200 OK", answer(&server, &used, &pin)), "refused", "refused", 2..=5),
    ];
    let mut nodes = Vec::new();
    for (what, said, state, kind, requests) in cases {
        let vpc = Vpc::open(&net.host(&format!("vpc-{what}")), 0, move |_| said.clone());
        let host = net.host(&format!("node-{what}"));
        let mut config = config(&host, &server, &vpc.url);
        if what == "pinned" {
            let login = json!({ "url": server.url(), "noise_key": pin, "plain_http": true });
            config["login_server"] = login;
        }
        nodes.push((what, Ours::start(&host, &config), vpc, state, kind, requests));
    }
    // One whose VPC server is away: it is asked as soon as it is there.
    let (late, host) = (net.host("vpc-late"), net.host("node-late"));
    let url = format!("http://{}:{LATE}/api/register", late.v4);
    let waiting = Ours::start(&host, &config(&host, &server, &url));
    let unreachable = until(s(60), "it says so", || {
        waiting.status().filter(|status| status["refusal"]["kind"] == "registration-unreachable")
    });
    assert_eq!(unreachable["state"], "key-needed");

    thread::sleep(LOOK);
    for (what, node, vpc, state, kind, requests) in &nodes {
        let (status, seen) = (node.status().unwrap(), vpc.seen());
        eprintln!("{what}: {} requests, {} {}", seen.len(), status["state"], status["refusal"]);
        assert_eq!((&status["state"], &status["refusal"]["kind"]), (&json!(state), &json!(kind)), "{what}");
        assert!(requests.contains(&seen.len()), "{what}: {}", seen.len());
        let least = if *what == "limited" { s(99) } else { s(59) };
        for pair in seen.windows(2) {
            assert!(pair[1].0 - pair[0].0 >= least, "{what}: {:?}", pair[1].0 - pair[0].0);
        }
        assert!(!status.to_string().contains("hskey-"), "{what}: {status}");
        let said = fs::read_to_string(node.host.folder.join("vpn.log")).unwrap();
        assert!(!said.contains("hskey-") && !said.contains(&used), "{what}: {said}");
    }
    let names: Vec<_> = server.nodes().into_iter().map(|node| node.name).collect();
    assert!(names.is_empty(), "{names:?}");
    let vpc = Vpc::open(&late, LATE, move |_| ("200 OK".to_owned(), good.clone()));
    waiting.comes_in(s(90));
    assert_eq!(vpc.seen().len(), 1);
}
