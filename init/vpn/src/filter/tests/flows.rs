//! What is let in because of what went out.

use super::*;

#[test]
fn what_we_begin_is_answered_and_only_that() {
    let (deny, flows, local) = (Filter::deny_all(), FlowTable::new(), local());
    let query = udp("100.64.0.1", 5000, "100.64.0.2", 53);
    let answer = Flow::reversed(&query);
    assert_eq!(deny.inbound(&answer, &flows, &local, 10), NO_RULE);
    flows.record_outbound(&query, 10);
    assert_eq!(deny.inbound(&answer, &flows, &local, 10), Verdict::Accept);
    for other in [
        Flow { source_port: 54, ..answer },
        Flow { destination_port: 5001, ..answer },
        Flow { source: "100.64.0.3".parse().unwrap(), ..answer },
        Flow { protocol: SCTP, kind: Kind::Sctp, ..answer },
    ] {
        assert_eq!(deny.inbound(&other, &flows, &local, 10), NO_RULE, "{other:?}");
    }
    // Answers keep it open; silence ends it; our next packet opens it again.
    assert_eq!(deny.inbound(&answer, &flows, &local, 300), Verdict::Accept);
    assert_eq!(deny.inbound(&answer, &flows, &local, 600), Verdict::Accept);
    assert_eq!(deny.inbound(&answer, &flows, &local, 901), NO_RULE);
    flows.record_outbound(&query, 901);
    assert_eq!(deny.inbound(&answer, &flows, &local, 902), Verdict::Accept);
    // A thread whose clock is behind agrees.
    assert_eq!(deny.inbound(&answer, &flows, &local, 900), Verdict::Accept);
    flows.clear();
    assert_eq!(deny.inbound(&answer, &flows, &local, 902), NO_RULE);
}

#[test]
fn our_replies_do_not_outlive_the_rule_that_let_a_flow_in() {
    let (open, deny, flows, local) =
        (filter(RECORDED_NO_POLICY), Filter::deny_all(), FlowTable::new(), local());
    let request = udp("100.64.0.2", 4000, "100.64.0.1", 7000);
    let mine = udp("100.64.0.1", 4001, "100.64.0.2", 7001);
    flows.record_outbound(&mine, 0);
    assert_eq!(open.inbound(&request, &flows, &local, 0), Verdict::Accept);
    flows.record_outbound(&Flow::reversed(&request), 0);
    // The rules go. The peer goes on sending, and we go on replying for a while.
    for now in 1..20 {
        assert_eq!(deny.inbound(&request, &flows, &local, now), NO_RULE);
        flows.record_outbound(&Flow::reversed(&request), now);
        assert_eq!(deny.inbound(&Flow::reversed(&mine), &flows, &local, now), Verdict::Accept);
    }
    // Other peers, opening flows by the thousand, push out none of ours.
    for port in 0..20_000 {
        assert_eq!(
            open.inbound(&udp("100.64.0.3", port, "100.64.0.1", 1), &flows, &local, 21),
            Verdict::Accept
        );
    }
    assert_eq!(deny.inbound(&Flow::reversed(&mine), &flows, &local, 21), Verdict::Accept);
}

#[test]
fn a_flow_ends_with_its_peer_although_another_gets_the_address() {
    let (deny, flows, local) = (Filter::deny_all(), FlowTable::new(), local());
    let query = udp("100.64.0.1", 40_000, "100.64.0.2", 53).with_peer(1);
    deny.outbound(&query, &flows, 10);
    let answer = query.reversed();
    assert_eq!(deny.inbound(&answer.with_peer(2), &flows, &local, 11), NO_RULE);
    assert_eq!(deny.inbound(&answer, &flows, &local, 11), Verdict::Accept);
}

#[test]
fn after_a_start_a_reply_to_a_flow_that_a_rule_lets_in_does_not_make_it_ours() {
    let (open, deny, local) = (filter(RECORDED_NO_POLICY), Filter::deny_all(), local());
    let reply = udp("100.64.0.1", 7000, "100.64.0.2", 4000);
    let query = udp("100.64.0.1", 40_000, "100.64.0.2", 53);
    let flows = FlowTable::new();
    for mine in [&reply, &query] {
        open.outbound(mine, &flows, 5);
        assert_eq!(open.inbound(&mine.reversed(), &flows, &local, 5), Verdict::Accept);
    }
    assert_eq!(deny.inbound(&reply.reversed(), &flows, &local, 6), NO_RULE);
    assert_eq!(deny.inbound(&query.reversed(), &flows, &local, 6), Verdict::Accept);
    // No rule lets it in: it can only be ours. And later what the peer began is known.
    let flows = FlowTable::new();
    deny.outbound(&reply, &flows, 5);
    assert_eq!(deny.inbound(&reply.reversed(), &flows, &local, 6), Verdict::Accept);
    let flows = FlowTable::new();
    open.outbound(&reply, &flows, 1000);
    assert_eq!(deny.inbound(&reply.reversed(), &flows, &local, 1001), Verdict::Accept);
}

#[test]
fn a_full_table_gives_up_its_oldest_flows() {
    let (deny, flows, local) = (Filter::deny_all(), FlowTable::new(), local());
    for n in 0..10_000_u32 {
        flows.record_outbound(&udp("100.64.0.1", u16::try_from(n).unwrap(), "100.64.0.2", 53), n / 100);
    }
    let open = |n: u16| {
        deny.inbound(&udp("100.64.0.2", 53, "100.64.0.1", n), &flows, &local, 100) == Verdict::Accept
    };
    assert!((9_900..10_000).all(open));
    assert!((0..10_000).filter(|n| open(*n)).count() <= 4096);
}

#[test]
fn threads_share_a_table() {
    let (flows, deny, local) = (FlowTable::new(), Filter::deny_all(), local());
    let found = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4_u16 {
            let (flows, deny, local, found) = (&flows, &deny, &local, &found);
            scope.spawn(move || {
                for n in 0..2_000 {
                    let mine = udp("100.64.0.1", thread, "100.64.0.2", n % 100);
                    flows.record_outbound(&mine, 0);
                    let open = deny.inbound(&Flow::reversed(&mine), flows, local, 0) == Verdict::Accept;
                    found.fetch_add(usize::from(open), Ordering::Relaxed);
                    let strange = udp("100.64.0.2", n, "100.64.0.1", 1000 + thread);
                    assert_eq!(deny.inbound(&strange, flows, local, 0), NO_RULE);
                }
            });
        }
    });
    // Two threads may take one place at once; then one of the two flows waits for its next packet.
    assert!(found.into_inner() > 7_900);
}
