//! Resolvers behind TLS: who is believed, and what of their words.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::rr::rdata::AAAA;
use rustls::pki_types::PrivateKeyDer;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::parent::Resolver;

const HOST: &str = "headscale.example.com";

/// What a resolver makes of a question.
type Answer = fn(Message) -> Option<Message>;

/// A resolver with a certificate of this name, the root that vouches for it, and how many questions it was asked.
struct Server {
    address: SocketAddr,
    certificate: rustls::pki_types::CertificateDer<'static>,
    asked: Arc<AtomicUsize>,
}

async fn server(name: &str, answer: Answer) -> Server {
    server_that(name, answer, false).await
}

/// One that, if it `waits`, does not close the connection where it has no answer.
async fn server_that(name: &str, answer: Answer, waits: bool) -> Server {
    let certified = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let certificate = certified.cert.der().clone();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(tcp).await else { continue };
            while let Ok(length) = stream.read_u16().await {
                let mut query = vec![0; usize::from(length)];
                stream.read_exact(&mut query).await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                let Some(reply) = answer(Message::from_vec(&query).unwrap()) else {
                    if waits {
                        std::future::pending::<()>().await;
                    }
                    break;
                };
                let reply = reply.to_vec().unwrap();
                let length = u16::try_from(reply.len()).unwrap();
                stream.write_all(&[&length.to_be_bytes(), &*reply].concat()).await.unwrap();
            }
        }
    });
    Server { address, certificate, asked }
}

fn reply(query: &Message, code: ResponseCode) -> Message {
    let mut reply = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    reply.metadata.response_code = code;
    reply.queries = query.queries.clone();
    reply
}

/// One address of each family.
fn both(query: Message) -> Option<Message> {
    let mut reply = reply(&query, ResponseCode::NoError);
    let asked = query.queries.first()?.clone();
    let data = match asked.query_type {
        RecordType::A => RData::A(A::new(192, 0, 2, 7)),
        _ => RData::AAAA(AAAA::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7)),
    };
    reply.add_answer(Record::from_rdata(asked.name, 60, data));
    Some(reply)
}

fn client(servers: &[(&Server, &str)]) -> Authenticated {
    let mut roots = RootCertStore::empty();
    for (server, _) in servers {
        roots.add(server.certificate.clone()).unwrap();
    }
    let resolvers: Vec<_> = servers
        .iter()
        .map(|(server, name)| Resolver { address: server.address, name: (*name).to_owned() })
        .collect();
    Authenticated::new(&resolvers, &Arc::new(roots)).unwrap().unwrap()
}

#[tokio::test]
async fn a_name_is_asked_for_in_both_families_and_ipv4_comes_first() {
    let server = server("dns.example", both).await;
    let found = client(&[(&server, "dns.example")]).lookup(HOST).await.unwrap();
    let expected: [IpAddr; 2] = ["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()];
    assert_eq!(found, expected);
    assert_eq!(server.asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn who_has_an_address_does_not_wait_for_the_other_family() {
    let v4 = |query: Message| {
        let kind = query.queries.first()?.query_type;
        if kind == RecordType::A { both(query) } else { None }
    };
    let server = server_that("dns.example", v4, true).await;
    let client = client(&[(&server, "dns.example")]);
    let found = tokio::time::timeout(crate::dns::authenticated::ATTEMPT / 2, client.lookup(HOST))
        .await
        .expect("it waits")
        .unwrap();
    assert_eq!(found, ["192.0.2.7".parse::<IpAddr>().unwrap()]);
    assert_eq!(server.asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_resolver_that_cannot_show_its_name_is_asked_nothing() {
    let server = server("dns.example", both).await;
    let error = client(&[(&server, "other.example")]).lookup(HOST).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("{HOST}: resolver {}: ", server.address)), "{error}");
    assert!(error.contains("certificate"), "{error}");
    // Nor one that nobody vouches for.
    let stranger = self::server("dns.example", both).await;
    let mut unknown = client(&[(&server, "dns.example")]);
    unknown =
        Authenticated { resolvers: vec![(stranger.address, "dns.example".try_into().unwrap())], ..unknown };
    let error = unknown.lookup(HOST).await.unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
    assert_eq!([&server, &stranger].map(|server| server.asked.load(Ordering::Relaxed)), [0, 0]);
}

#[tokio::test]
async fn the_next_is_asked_when_one_fails() {
    let (fails, silent) = (
        server("a.example", |query| Some(reply(&query, ResponseCode::ServFail))).await,
        server("b.example", |_| None).await,
    );
    let good = server("c.example", both).await;
    let all = [(&fails, "a.example"), (&silent, "b.example"), (&good, "c.example")];
    assert_eq!(client(&all).lookup(HOST).await.unwrap().len(), 2);
    let error = client(&all[..1]).lookup(HOST).await.unwrap_err().to_string();
    assert!(error.contains("expected an answer, found"), "{error}");
}

#[tokio::test]
async fn a_name_that_is_none_is_said_to_be_none() {
    let none = server("dns.example", |query| Some(reply(&query, ResponseCode::NXDomain))).await;
    let error = client(&[(&none, "dns.example")]).lookup(HOST).await.unwrap_err();
    assert_eq!(error.to_string(), format!("{HOST}: expected an address, found none at the resolver"));
    assert!(client(&[(&none, "dns.example")]).lookup("no name").await.is_err());
}

#[tokio::test]
async fn only_the_answer_to_the_question_is_believed() {
    let other_id: Answer = |query| {
        let mut reply = both(query)?;
        reply.metadata.id = reply.metadata.id.wrapping_add(1);
        Some(reply)
    };
    let other_question: Answer = |query| {
        let name = Name::from_ascii("other.example.").ok()?;
        let mut reply = reply(&query, ResponseCode::NoError);
        reply.queries = vec![Query::query(name.clone(), RecordType::A)];
        reply.add_answer(Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, 9))));
        Some(reply)
    };
    for hostile in [other_id, other_question] {
        let server = server("dns.example", hostile).await;
        let error = client(&[(&server, "dns.example")]).lookup(HOST).await.unwrap_err().to_string();
        assert!(error.contains("expected the answer to our question"), "{error}");
    }
    // No more addresses than a server has, and none of the wrong family.
    let many: Answer = |query| {
        let mut reply = reply(&query, ResponseCode::NoError);
        let name = query.queries.first()?.name.clone();
        for last in 0..200 {
            reply.add_answer(Record::from_rdata(name.clone(), 60, RData::A(A::new(192, 0, 2, last))));
        }
        Some(reply)
    };
    let server = server("dns.example", many).await;
    let found = client(&[(&server, "dns.example")]).lookup(HOST).await.unwrap();
    assert_eq!(found.len(), 8);
    assert_eq!(found.iter().filter(|address| address.is_ipv4()).count(), 8);
}
