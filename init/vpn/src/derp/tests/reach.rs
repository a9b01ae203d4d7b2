//! Which addresses of a relay are tried, and when its name is looked up.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::super::reach::{Limits, dial};
use crate::dial::{BoxFuture, Dial};
use crate::netmap::DerpNode;

const LIMITS: Limits = Limits { look_up: Duration::from_secs(2), dial: Duration::from_secs(20) };

/// Addresses that end in 1 swallow, in 2 refuse, in 3 answer.
struct Fake {
    answers: SocketAddr,
    /// `None`: no resolver ever answers.
    names: Option<Vec<IpAddr>>,
    asked: Mutex<Vec<String>>,
}

impl Fake {
    fn note(&self, what: String) {
        self.asked.lock().unwrap().push(what);
    }
}

impl Dial for Fake {
    fn dial<'a>(&'a self, _: &'a str, ip: Option<IpAddr>, _: u16) -> BoxFuture<'a, io::Result<TcpStream>> {
        Box::pin(async move {
            let text = ip.unwrap().to_string();
            self.note(text.clone());
            match text.as_bytes().last() {
                Some(b'1') => std::future::pending().await,
                Some(b'2') => Err(io::ErrorKind::ConnectionRefused.into()),
                _ => TcpStream::connect(self.answers).await,
            }
        })
    }

    fn addresses<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            self.note(host.to_owned());
            match &self.names {
                Some(names) => Ok(names.clone()),
                None => std::future::pending().await,
            }
        })
    }
}

fn node(v4: &str, v6: &str) -> DerpNode {
    DerpNode {
        name: "1a".to_owned(),
        host: "relay".to_owned(),
        ipv4: v4.parse().ok(),
        ipv6: v6.parse().ok(),
        without_ipv4: v4 == "none",
        without_ipv6: v6 == "none",
        derp_port: 443,
        stun_port: None,
        stun_only: false,
        pin: None,
        cert_name: None,
        insecure_for_tests: false,
    }
}

/// Whom we asked, and what came of it.
async fn dialled(node: DerpNode, names: Option<&[&str]>) -> (io::Result<TcpStream>, Vec<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let fake = Fake {
        answers: listener.local_addr().unwrap(),
        names: names.map(|names| names.iter().map(|name| name.parse().unwrap()).collect()),
        asked: Mutex::default(),
    };
    let result = dial(&node, &fake, LIMITS).await;
    (result, fake.asked.into_inner().unwrap())
}

#[tokio::test]
async fn the_missing_family_is_looked_up_where_the_one_that_is_given_does_not_answer() {
    let both = Some(&["192.0.2.3", "2001:db8::3"][..]);
    let (found, asked) = dialled(node("198.51.100.1", ""), both).await;
    found.unwrap();
    assert_eq!(asked, ["198.51.100.1", "relay", "2001:db8::3"], "IPv4 is the map's word");
    let (found, asked) = dialled(node("", "2001:db8:1::2"), both).await;
    found.unwrap();
    assert_eq!(asked, ["2001:db8:1::2", "relay", "192.0.2.3"]);
    // What answers needs no name.
    let (found, asked) = dialled(node("198.51.100.3", ""), both).await;
    found.unwrap();
    assert_eq!(asked, ["198.51.100.3"]);
    // Nothing is given: one after the other.
    let (found, asked) = dialled(node("", ""), Some(&["192.0.2.1", "192.0.2.3", "2001:db8::2"])).await;
    found.unwrap();
    assert_eq!(asked, ["relay", "192.0.2.1", "2001:db8::2", "192.0.2.3"]);
}

#[tokio::test]
async fn a_family_that_the_map_denies_is_neither_looked_up_nor_tried() {
    let both = Some(&["192.0.2.3", "2001:db8::3"][..]);
    let (found, asked) = dialled(node("198.51.100.2", "none"), both).await;
    assert_eq!(found.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!(asked, ["198.51.100.2"]);
    let (found, asked) = dialled(node("none", ""), both).await;
    found.unwrap();
    assert_eq!(asked, ["relay", "2001:db8::3"]);
    let (found, asked) = dialled(node("none", "none"), both).await;
    assert_eq!(found.unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(asked, Vec::<String>::new());
}

#[tokio::test]
async fn a_look_up_has_a_limit_of_its_own_and_what_is_given_says_why_nothing_answers() {
    let (found, asked) = dialled(node("", "none"), None).await;
    assert_eq!(found.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert_eq!(asked, ["relay"]);
    let (found, asked) = dialled(node("198.51.100.2", ""), None).await;
    assert_eq!(found.unwrap_err().kind(), io::ErrorKind::ConnectionRefused, "not that the name is unknown");
    assert_eq!(asked, ["198.51.100.2", "relay"]);
}
