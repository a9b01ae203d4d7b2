//! The state machine against a server made of bytes.

use std::net::Ipv4Addr;
use std::time::Duration;

use dhcproto::v4::{DhcpOption, Message, MessageType, OptionCode};
use dhcproto::{Decodable as _, Decoder};
use proptest::prelude::*;

use super::super::{Lease, LeaseRefused, Refusal, Report};
use super::{Client, Output};

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const ADDRESS: [u8; 4] = [10, 0, 2, 15];
const GATEWAY: [u8; 4] = [10, 0, 2, 2];
const SERVER: [u8; 4] = [10, 0, 2, 3];
const OFFER: u8 = 2;
const ACK: u8 = 5;
const NAK: u8 = 6;

/// A server's message, field by field.
#[derive(Clone, Debug)]
struct Answer {
    op: u8,
    xid: [u8; 4],
    address: [u8; 4],
    mac: [u8; 6],
    hlen: u8,
    cookie: [u8; 4],
    options: Vec<(u8, Vec<u8>)>,
    tail: Vec<u8>,
}

impl Answer {
    /// A good one to what the client just sent.
    fn to(sent: &Message, kind: u8) -> Self {
        Self {
            op: 2,
            xid: sent.xid().to_be_bytes(),
            address: ADDRESS,
            mac: MAC,
            hlen: 6,
            cookie: [99, 130, 83, 99],
            options: vec![
                (53, vec![kind]),
                (54, SERVER.to_vec()),
                (51, 3600_u32.to_be_bytes().to_vec()),
                (1, vec![255, 255, 255, 0]),
                (3, GATEWAY.to_vec()),
            ],
            tail: vec![255],
        }
    }

    /// The same with one option replaced, or taken away.
    fn with(mut self, code: u8, value: Option<&[u8]>) -> Self {
        self.options.retain(|(one, _)| *one != code);
        self.options.extend(value.map(|value| (code, value.to_vec())));
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.op, 1, self.hlen, 0];
        bytes.extend(self.xid);
        bytes.extend([0; 8]);
        bytes.extend(self.address);
        bytes.extend([0; 8]);
        bytes.extend(self.mac);
        bytes.extend([0; 202]);
        bytes.extend(self.cookie);
        for (code, value) in &self.options {
            bytes.extend([*code, u8::try_from(value.len()).unwrap()]);
            bytes.extend(value);
        }
        bytes.extend(&self.tail);
        bytes
    }
}

/// The client with a clock.
struct Bench {
    client: Client,
    now: Duration,
}

impl Bench {
    fn new() -> Self {
        let now = Duration::from_secs(5);
        Self { client: Client::new(MAC, [7; 32], now), now }
    }

    /// Lets time pass up to the next thing that the client does.
    fn next(&mut self) -> Output {
        self.now = self.client.deadline();
        self.client.tick(self.now)
    }

    fn next_message(&mut self) -> Message {
        parsed(&self.next())
    }

    fn receive(&mut self, answer: &Answer) -> Result<Output, Refusal> {
        self.client.receive(self.now, &answer.bytes())
    }

    /// Up to the REQUEST that takes the offer.
    fn requesting() -> (Self, Message) {
        let mut bench = Self::new();
        let discover = bench.next_message();
        let output = bench.receive(&Answer::to(&discover, OFFER)).unwrap();
        (bench, parsed(&output))
    }

    /// With a lease of an hour; also when it was asked for.
    fn bound() -> (Self, Duration) {
        let (mut bench, request) = Self::requesting();
        let asked = bench.now;
        bench.now += Duration::from_millis(300);
        let output = bench.receive(&Answer::to(&request, ACK)).unwrap();
        assert_eq!(output, Output { send: None, report: Some(Report::Lease(lease(3600))) });
        (bench, asked)
    }
}

fn lease(seconds: u32) -> Lease {
    Lease::new(ADDRESS.into(), 24, GATEWAY.into(), seconds).unwrap()
}

/// What was sent, as another implementation reads it.
fn parsed(output: &Output) -> Message {
    Message::decode(&mut Decoder::new(&output.send.expect("the client sends"))).unwrap()
}

fn kind(message: &Message) -> MessageType {
    message.opts().msg_type().unwrap()
}

fn requested(message: &Message) -> Option<Ipv4Addr> {
    match message.opts().get(OptionCode::RequestedIpAddress) {
        Some(DhcpOption::RequestedIpAddress(address)) => Some(*address),
        _ => None,
    }
}

fn server(message: &Message) -> Option<Ipv4Addr> {
    match message.opts().get(OptionCode::ServerIdentifier) {
        Some(DhcpOption::ServerIdentifier(address)) => Some(*address),
        _ => None,
    }
}

#[test]
fn four_messages_make_a_lease() {
    let mut bench = Bench::new();
    let discover = bench.next_message();
    assert_eq!(kind(&discover), MessageType::Discover);
    assert_eq!(discover.chaddr(), MAC);
    assert!(discover.flags().broadcast());
    assert_eq!(discover.ciaddr(), Ipv4Addr::UNSPECIFIED);

    let request = parsed(&bench.receive(&Answer::to(&discover, OFFER)).unwrap());
    assert_eq!(kind(&request), MessageType::Request);
    assert_eq!(request.xid(), discover.xid());
    assert_eq!(requested(&request), Some(ADDRESS.into()));
    assert_eq!(server(&request), Some(SERVER.into()));
    assert!(request.flags().broadcast());

    let output = bench.receive(&Answer::to(&request, ACK)).unwrap();
    assert_eq!(output, Output { send: None, report: Some(Report::Lease(lease(3600))) });
    assert_eq!(bench.client.deadline(), bench.now + Duration::from_secs(1800));
}

#[test]
fn messages_name_nothing_but_the_hardware_address_and_what_is_asked() {
    let (_, request) = Bench::requesting();
    let mut codes: Vec<u8> = request.opts().iter().map(|(code, _)| u8::from(*code)).collect();
    codes.sort_unstable();
    assert_eq!(codes, [50, 53, 54, 55]);
    let Some(DhcpOption::ParameterRequestList(asked)) = request.opts().get(OptionCode::ParameterRequestList)
    else {
        panic!("no parameter list");
    };
    assert_eq!(asked.iter().map(|code| u8::from(*code)).collect::<Vec<_>>(), [1, 3, 51, 58, 59]);
}

#[test]
fn silence_is_answered_with_longer_and_longer_waits() {
    let mut bench = Bench::new();
    let first = bench.next_message();
    let mut waits = Vec::new();
    for _ in 0..10 {
        let before = bench.now;
        let again = bench.next_message();
        assert_eq!((kind(&again), again.xid()), (MessageType::Discover, first.xid()));
        waits.push((bench.now - before).as_millis());
    }
    for (wait, full) in waits.iter().zip([1, 2, 4, 8, 16, 32, 64, 64, 64, 64]) {
        let full = full * 1000;
        assert!((full * 3 / 4..=full * 5 / 4).contains(wait), "{waits:?}");
    }
}

#[test]
fn an_offer_without_an_answer_to_its_request_is_given_up() {
    let (mut bench, request) = Bench::requesting();
    for _ in 0..3 {
        assert_eq!(kind(&bench.next_message()), MessageType::Request);
    }
    assert_eq!(bench.next(), Output::default());
    let discover = bench.next_message();
    assert_eq!(kind(&discover), MessageType::Discover);
    assert_ne!(discover.xid(), request.xid());
    // The late answer belongs to no exchange any more.
    assert_eq!(bench.receive(&Answer::to(&request, ACK)), Err(Refusal::OtherTransaction));
}

#[test]
fn offers_and_naks_in_turn_make_no_storm() {
    let mut bench = Bench::new();
    let start = bench.now;
    for _ in 0..8 {
        let discover = bench.next_message();
        assert_eq!(kind(&discover), MessageType::Discover);
        let request = parsed(&bench.receive(&Answer::to(&discover, OFFER)).unwrap());
        assert_eq!(bench.receive(&Answer::to(&request, NAK)), Ok(Output::default()));
    }
    bench.next();
    assert!(bench.now - start > Duration::from_secs(90), "{:?}", bench.now - start);
}

#[test]
fn messages_that_are_not_for_us_change_nothing() {
    type Change = fn(&mut Answer);
    let cases: [(Change, Refusal); 15] = [
        (|answer| answer.op = 1, Refusal::NotAReply),
        (|answer| answer.hlen = 255, Refusal::NotAReply),
        (|answer| answer.cookie[3] = 0, Refusal::NotAReply),
        (|answer| answer.xid[3] ^= 1, Refusal::OtherTransaction),
        (|answer| answer.mac[5] ^= 1, Refusal::OtherHardware),
        (|answer| answer.tail.clear(), Refusal::Truncated),
        (|answer| answer.tail = vec![12], Refusal::Truncated),
        (|answer| answer.tail = vec![12, 5, b'a', b'b', 255], Refusal::Truncated),
        (|answer| answer.tail = vec![0; 2000], Refusal::Size(2267)),
        (|answer| answer.options.push((3, vec![10, 0, 2, 9])), Refusal::Repeated(3)),
        (|answer| answer.options.push((53, vec![5])), Refusal::Repeated(53)),
        (|answer| *answer = answer.clone().with(53, Some(&[8])), Refusal::Malformed(53)),
        (|answer| *answer = answer.clone().with(53, None), Refusal::Missing(53)),
        (|answer| *answer = answer.clone().with(54, None), Refusal::Missing(54)),
        (|answer| *answer = answer.clone().with(54, Some(&[255; 4])), Refusal::Malformed(54)),
    ];
    for (change, refusal) in cases {
        let mut bench = Bench::new();
        let discover = bench.next_message();
        let good = Answer::to(&discover, OFFER);
        let mut bad = good.clone();
        change(&mut bad);
        let deadline = bench.client.deadline();
        assert_eq!(bench.receive(&bad), Err(refusal));
        assert_eq!(bench.client.deadline(), deadline);
        // The good one still counts.
        assert_eq!(kind(&parsed(&bench.receive(&good).unwrap())), MessageType::Request);
    }
}

#[test]
fn offers_of_unusable_leases_are_ignored() {
    let gateway_outside = LeaseRefused::GatewayOutside {
        network: "10.0.2.0/24".parse().unwrap(),
        gateway: Ipv4Addr::new(192, 0, 2, 1),
    };
    let cases: [(u8, Option<&[u8]>, Refusal); 14] = [
        (1, None, Refusal::Missing(1)),
        (3, None, Refusal::Missing(3)),
        (51, None, Refusal::Missing(51)),
        (1, Some(&[255; 4]), LeaseRefused::Prefix(32).into()),
        (1, Some(&[0; 4]), LeaseRefused::Prefix(0).into()),
        (1, Some(&[255, 0, 255, 0]), Refusal::Malformed(1)),
        (1, Some(&[255, 255, 255]), Refusal::Malformed(1)),
        (3, Some(&[192, 0, 2, 1]), gateway_outside.into()),
        (3, Some(&ADDRESS), LeaseRefused::GatewayIsSelf(ADDRESS.into()).into()),
        (3, Some(&[10, 0, 2, 255]), LeaseRefused::Gateway([10, 0, 2, 255].into()).into()),
        (3, Some(&[]), Refusal::Malformed(3)),
        (3, Some(&[10, 0, 2, 2, 10]), Refusal::Malformed(3)),
        (51, Some(&[0; 4]), LeaseRefused::Duration(0).into()),
        (51, Some(&[0; 5]), Refusal::Malformed(51)),
    ];
    for (code, value, refusal) in cases {
        let mut bench = Bench::new();
        let discover = bench.next_message();
        let good = Answer::to(&discover, OFFER);
        assert_eq!(bench.receive(&good.clone().with(code, value)), Err(refusal), "option {code} {value:?}");
        // The same in an acknowledgement: the offer does not vouch for it.
        let request = parsed(&bench.receive(&good).unwrap());
        let ack = Answer::to(&request, ACK);
        assert_eq!(bench.receive(&ack.clone().with(code, value)), Err(refusal), "option {code} {value:?}");
        assert!(bench.receive(&ack).unwrap().report.is_some());
    }
}

#[test]
fn an_endless_lease_is_a_lease_for_a_day() {
    let (mut bench, request) = Bench::requesting();
    let ack = Answer::to(&request, ACK).with(51, Some(&[255; 4]));
    assert_eq!(bench.receive(&ack).unwrap().report, Some(Report::Lease(lease(86_400))));
    assert_eq!(bench.client.deadline(), bench.now + Duration::from_secs(43_200));
}

#[test]
fn times_of_the_server_count_only_in_order() {
    for (t1, t2, renewal) in [
        (Some(600), Some(1200), 600),
        (Some(1200), Some(600), 1800),
        (Some(0), Some(1200), 1800),
        (Some(29), Some(1200), 1800),
        (Some(600), Some(3600), 1800),
        (Some(u32::MAX), Some(u32::MAX), 1800),
        (Some(600), None, 1800),
        (None, Some(1200), 1800),
    ] {
        let (mut bench, request) = Bench::requesting();
        let ack = Answer::to(&request, ACK)
            .with(58, t1.map(u32::to_be_bytes).as_ref().map(<[u8; 4]>::as_slice))
            .with(59, t2.map(u32::to_be_bytes).as_ref().map(<[u8; 4]>::as_slice));
        bench.receive(&ack).unwrap();
        assert_eq!(bench.client.deadline(), bench.now + Duration::from_secs(renewal), "{t1:?} {t2:?}");
    }
}

#[test]
fn only_the_chosen_server_and_address_end_a_request() {
    let (mut bench, request) = Bench::requesting();
    let ack = Answer::to(&request, ACK);
    let other: Ipv4Addr = [10, 0, 2, 99].into();
    let from_other = ack.clone().with(54, Some(&other.octets()));
    assert_eq!(bench.receive(&from_other), Err(Refusal::OtherServer(other)));
    let nak_from_other = Answer::to(&request, NAK).with(54, Some(&other.octets()));
    assert_eq!(bench.receive(&nak_from_other), Err(Refusal::OtherServer(other)));
    let another = Answer { address: other.octets(), ..ack.clone() };
    assert_eq!(bench.receive(&another), Err(Refusal::OtherAddress(other)));
    assert_eq!(bench.receive(&Answer::to(&request, OFFER)), Err(Refusal::OutOfTurn));
    assert!(bench.receive(&ack).unwrap().report.is_some());
    // And then nothing is asked any more.
    assert_eq!(bench.receive(&ack), Err(Refusal::OutOfTurn));
}

#[test]
fn a_lease_is_renewed_by_its_server_at_half_time() {
    let (mut bench, asked) = Bench::bound();
    let renew = bench.next_message();
    assert_eq!(bench.now, asked + Duration::from_secs(1800));
    assert_eq!(kind(&renew), MessageType::Request);
    assert_eq!(renew.ciaddr(), Ipv4Addr::from(ADDRESS));
    assert_eq!((requested(&renew), server(&renew)), (None, None));
    let ack = Answer::to(&renew, ACK);
    let other: Ipv4Addr = [10, 0, 2, 99].into();
    assert_eq!(bench.receive(&ack.clone().with(54, Some(&other.octets()))), Err(Refusal::OtherServer(other)));
    bench.now += Duration::from_secs(1);
    assert_eq!(bench.receive(&ack).unwrap().report, Some(Report::Lease(lease(3600))));
    assert_eq!(bench.client.deadline(), asked + Duration::from_secs(3600));
}

#[test]
fn an_unanswered_lease_is_asked_of_all_and_then_lost() {
    let (mut bench, asked) = Bench::bound();
    let at = |seconds| asked + Duration::from_secs(seconds);
    let mut sent = Vec::new();
    let lost = loop {
        let output = bench.next();
        if output.report.is_some() {
            break output;
        }
        let message = parsed(&output);
        assert_eq!(kind(&message), MessageType::Request);
        assert_eq!(message.ciaddr(), Ipv4Addr::from(ADDRESS));
        assert_eq!((server(&message), requested(&message)), (None, None));
        sent.push((bench.now, message.xid()));
    };
    assert_eq!(bench.now, at(3600));
    assert_eq!(lost.report, Some(Report::Lost));
    assert_eq!(kind(&parsed(&lost)), MessageType::Discover);
    // T1 and T2 to the second, one transaction before T2 and another from then on.
    assert_eq!(sent[0].0, at(1800));
    let (before, after): (Vec<_>, Vec<_>) =
        sent.iter().copied().partition::<Vec<_>, _>(|(when, _)| *when < at(3150));
    assert_eq!(after[0].0, at(3150));
    assert!(before.iter().all(|(_, xid)| *xid == before[0].1));
    assert!(after.iter().all(|(_, xid)| *xid == after[0].1));
    assert_ne!(before[0].1, after[0].1);
    // At least a minute apart, but for the ones that T2 and the end cut short.
    let short = sent.windows(2).filter(|pair| pair[1].0 - pair[0].0 < Duration::from_secs(60)).count();
    assert!(short <= 2, "{sent:?}");
}

#[test]
fn any_server_may_prolong_after_t2() {
    let (mut bench, asked) = Bench::bound();
    let mut message = bench.next_message();
    while bench.now < asked + Duration::from_secs(3150) {
        message = bench.next_message();
    }
    let ack = Answer::to(&message, ACK).with(54, Some(&[10, 0, 2, 99]));
    assert_eq!(bench.receive(&ack).unwrap().report, Some(Report::Lease(lease(3600))));
}

#[test]
fn a_nak_takes_the_lease_back() {
    let (mut bench, _) = Bench::bound();
    let renew = bench.next_message();
    let output = bench.receive(&Answer::to(&renew, NAK)).unwrap();
    assert_eq!(output, Output { send: None, report: Some(Report::Lost) });
    assert_eq!(kind(&bench.next_message()), MessageType::Discover);
}

#[test]
fn a_machine_that_slept_through_its_lease_says_so() {
    let (mut bench, asked) = Bench::bound();
    bench.now = asked + Duration::from_secs(10_000);
    assert_eq!(bench.client.tick(bench.now).report, Some(Report::Lost));
}

#[test]
fn an_answer_after_the_end_does_not_prolong() {
    let (mut bench, asked) = Bench::bound();
    let renew = bench.next_message();
    bench.now = asked + Duration::from_secs(3600);
    assert_eq!(bench.receive(&Answer::to(&renew, ACK)), Err(Refusal::OutOfTurn));
}

/// Options that would change routes, names, time, MTU or proxies if anybody read them.
fn hostile_option() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let ours = [0, 1, 3, 51, 53, 54, 58, 59, 255];
    let known = prop::sample::select(vec![6_u8, 12, 15, 26, 33, 42, 43, 52, 66, 67, 119, 121, 125, 249, 252]);
    let unknown = (1_u8..255).prop_filter("one that is not read", move |code| !ours.contains(code));
    (prop_oneof![known, unknown], prop::collection::vec(any::<u8>(), 0..=40))
}

proptest! {
    #[test]
    fn any_bytes_change_nothing(bytes in prop::collection::vec(any::<u8>(), 0..2000), requesting: bool) {
        let mut bench = if requesting { Bench::requesting().0 } else { let mut b = Bench::new(); b.next(); b };
        let before = format!("{:?}", bench.client);
        prop_assert!(bench.client.receive(bench.now, &bytes).is_err());
        prop_assert_eq!(format!("{:?}", bench.client), before);
    }

    /// The same from a server that knows the transaction: whatever the options are, there is no panic, and what is reported
    /// obeys the rules of a lease, which `Report::decode` checks.
    #[test]
    fn any_options_of_a_right_transaction_obey_the_rules(options in prop::collection::vec(any::<u8>(), 0..600), address: [u8; 4]) {
        let (mut bench, request) = Bench::requesting();
        let mut ack = Answer::to(&request, ACK);
        ack.address = address;
        ack.options.truncate(2);
        ack.tail = options;
        if let Ok(Output { report: Some(report), .. }) = bench.receive(&ack) {
            prop_assert_eq!(Report::decode(&report.encode()), Ok(report));
        }
    }

    #[test]
    fn options_that_are_not_read_change_nothing(extra in prop::collection::vec(hostile_option(), 0..12), place in 0_usize..6) {
        let with = |mut answer: Answer| {
            let at = place.min(answer.options.len());
            answer.options.splice(at..at, extra.clone());
            answer
        };
        let (mut plain, mut attacked) = (Bench::new(), Bench::new());
        let discover = plain.next_message();
        prop_assert_eq!(discover.xid(), attacked.next_message().xid());
        let offer = Answer::to(&discover, OFFER);
        let expected = plain.receive(&offer);
        prop_assert_eq!(attacked.receive(&with(offer)), expected);
        let ack = Answer::to(&discover, ACK);
        let expected = plain.receive(&ack);
        prop_assert!(expected.as_ref().is_ok_and(|output| output.report.is_some()));
        prop_assert_eq!(attacked.receive(&with(ack)), expected);
        prop_assert_eq!(format!("{:?}", attacked.client), format!("{:?}", plain.client));
    }

    /// One changed byte anywhere in a good acknowledgement gives the good lease, another lease that obeys the rules, or nothing.
    #[test]
    fn a_changed_byte_is_survived(at: prop::sample::Index, value: u8) {
        let (mut bench, request) = Bench::requesting();
        let mut bytes = Answer::to(&request, ACK).bytes();
        let at = at.index(bytes.len());
        bytes[at] = value;
        if let Ok(Output { report: Some(report), .. }) = bench.client.receive(bench.now, &bytes) {
            prop_assert_eq!(Report::decode(&report.encode()), Ok(report));
        }
    }
}
