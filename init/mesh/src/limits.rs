//! Every limit of the proxy, in one place. None is configurable: the numbers are part of what was measured.

use std::time::Duration;

/// From accepting a TCP connection to the end of the TLS handshake, in both directions. A handshake is two round
/// trips and about a millisecond of quote verification; ten seconds allow for a congested link, not for a slow client.
pub const HANDSHAKE: Duration = Duration::from_secs(10);

/// From accepting a TCP connection to the whole ClientHello: one packet, or a few, that who means to speak TLS sends at once. It
/// allows for one of them being lost, and its repetition after a second (RFC 6298) as well.
pub const HELLO: Duration = Duration::from_secs(3);

/// From the end of the handshake, or of the last exchange, to the last byte of the next request's header section; so
/// also how long a kept-alive HTTP/1.1 connection may rest. Above [`POOL_REST`], so that the side that opens
/// connections gives them up first.
pub const HEADER: Duration = Duration::from_secs(20);

/// The life of a connection without an identity, or of a caller that is not allowed, after its handshake: enough for
/// `GET /health`, and to bring collateral. [`ATTESTATION`] lengthens it.
pub const STRANGER: Duration = Duration::from_secs(10);

/// Longest time without a byte in either direction on any connection, upgraded ones included. Above [`RESPONSE`], so
/// that a slow backend is a 504 and not a cut connection.
pub const IDLE: Duration = Duration::from_secs(360);

/// To establish a TCP connection to a backend or a target.
pub const CONNECT: Duration = Duration::from_secs(5);

/// How long a backend or a target may take to begin its answer while the request's body makes no progress. A model
/// that thinks for minutes is a normal backend.
pub const RESPONSE: Duration = Duration::from_secs(300);

/// How long a body waits for the other side's `100 Continue`; then it is sent all the same, as RFC 9110 section
/// 10.1.1 asks of a client.
pub const CONTINUE: Duration = Duration::from_secs(1);

/// Connections in their handshake or without an accepted identity, of all listeners together, shared among the addresses that they
/// come from (IPv6: networks of 64 bits). They have a share of their own, so that strangers cannot use up the callers' places;
/// and one address that opens them without end cannot keep others out.
pub const STRANGERS: usize = 128;

/// Connections that wait for such a place, because their address has as many as it may: at most for [`HELLO`], and the next one
/// is closed.
pub const STRANGERS_WAITING: usize = 256;

/// Concurrent streams of a stranger's HTTP/2 connection, the window of each, and its header sections, in bytes: enough for
/// `GET /health`.
pub const STRANGER_STREAMS: u32 = 4;
/// See [`STRANGER_STREAMS`].
pub const STRANGER_WINDOW: u32 = 16 << 10;
/// See [`STRANGER_STREAMS`].
pub const STRANGER_HEADER_BYTES: usize = 8 << 10;

/// Connections whose caller is identified and allowed, of all listeners together, shared among apps: one alone gets half of
/// them, and one that comes anew finds a place. One that gets none is closed: the next one may be somebody else's.
pub const CALLERS: usize = 320;

/// Requests of callers under way, shared in the same way; the next one is a 503. As many as connections, so that HTTP/1.1, as
/// which other appliances call, never meets this limit.
pub const REQUESTS: usize = CALLERS;

/// Connections of services to the outbound proxy, all together, shared among them; the next one waits in the kernel's queue.
/// Each has one request under way at most.
pub const SERVICE_CONNECTIONS: usize = 144;

/// Calls of services to the guest agent under way, all together, shared among them: one alone gets three; the next one is a 503.
/// Those for evidence go to it one after the other, so that ours for a certificate waits for one of them at most.
pub const AGENT_CALLS: usize = 5;

/// A service's whole request to the agent, in bytes, and how long its body may take. That is 32 KiB of data to quote, in hex; a
/// hash says as much.
pub const AGENT_REQUEST_BYTES: usize = 64 << 10;
/// See [`AGENT_REQUEST_BYTES`].
pub const AGENT_REQUEST: Duration = Duration::from_secs(10);

/// The answer that we read in order to say in it what was quoted, in bytes: a quote is 64 KiB at most (the agent
/// takes no more from the kernel), twice that in hex, and 512 events without their data are some 100 KiB.
pub const AGENT_ANSWER_BYTES: usize = 256 << 10;

/// A service's call to the agent, from connecting to its last byte; and how long it may wait for its turn before. Above the 80 s
/// after which the agent ends every connection, so that what we count as under way is all that it has of services.
pub const AGENT_CALL: Duration = Duration::from_secs(90);

/// Connections to one backend or target that are kept for later.
pub const POOLED: usize = 64;

/// The same of all backends and targets together.
pub const ALL_POOLED: usize = 128;

/// How long such a connection is kept. Below [`HEADER`] of the mesh at the other end, and below the 60 seconds and
/// more after which common servers close.
pub const POOL_REST: Duration = Duration::from_secs(15);

/// The header section of a request or response, in bytes (HTTP/1.1: with its first line; HTTP/2: as RFC 9113 section
/// 6.5.2 counts). Four times nginx's default, because tokens in headers grow.
pub const HEADER_BYTES: usize = 32 << 10;

/// Fields of a header section: hyper's own limit for HTTP/1.1. Without it 32 KiB of the shortest fields would be a thousand.
pub const HEADER_FIELDS: usize = 100;

/// hyper's read buffer of one HTTP/1.1 connection, at most, in bytes: a header section, and a little.
pub const READ_BUFFER: usize = 36 << 10;

/// What rustls and hyper buffer each towards a peer that does not read, in bytes.
pub const WRITE_BUFFER: usize = 32 << 10;

/// Concurrent streams of one HTTP/2 connection.
pub const STREAMS: u32 = 64;

/// HTTP/2 flow-control window of one connection, in bytes: what a peer may send while the backend does not read.
pub const CONNECTION_WINDOW: u32 = 128 << 10;

/// The same of one stream: alone it has all of it.
pub const STREAM_WINDOW: u32 = CONNECTION_WINDOW;

/// Copy buffer of an upgraded connection, in bytes, each way.
pub const TUNNEL_BUFFER: usize = 16 << 10;

/// Answers with log lines that are in memory at a time, because their receivers have not taken them yet; the next one is a
/// 503. With [`LOG_BYTES`], each byte of a line being six in JSON at most, they take some 4 MiB.
pub const LOG_ANSWERS: usize = 8;

/// Lines in one answer, at most and unless fewer are asked for.
pub const LOG_LINES: usize = 1000;

/// Bytes of lines in one answer, each line counting 64 more. At least one line is given.
pub const LOG_BYTES: usize = 64 << 10;

/// For an attestation, from the request to the answer: the agent has 30 s for a quote of a busy TDX host. A stranger's connection
/// lasts so long for this alone.
pub const ATTESTATION: Duration = Duration::from_secs(35);

/// Attestations under way for strangers, shared among the addresses that they come from; the next one is a 503. A connection has
/// one at a time.
pub const ATTESTATIONS_OF_STRANGERS: usize = 2;

/// The same for callers, shared among apps.
pub const ATTESTATIONS_OF_APPS: usize = 4;

/// The longest attestation that is given, in bytes: a quote of 5 KiB, with a log whose payloads are in it twice.
pub const ATTESTATION_BYTES: usize = 64 << 10;

/// For collateral that somebody brings, or that is fetched: from the first byte to the last.
pub const COLLATERAL: Duration = Duration::from_secs(10);

/// The longest collateral that is taken, with the quote that it comes with, in bytes of JSON. Intel's has 16 to 25 KiB.
pub const COLLATERAL_BYTES: usize = 256 << 10;

/// Collateral that strangers bring at a time, shared among the addresses that they come from; the next one is a 503.
pub const OFFERS_OF_STRANGERS: usize = 2;

/// The same for callers, shared among apps.
pub const OFFERS_OF_APPS: usize = 2;

/// Peers or servers from which collateral is fetched at a time; the next one waits.
pub const FETCHES: usize = 2;

/// How long after it was brought to a target our collateral is not brought there again.
pub const INTRODUCTION: Duration = Duration::from_secs(60);

/// How often our own collateral is fetched anew.
pub const OWN_COLLATERAL: Duration = Duration::from_secs(24 * 3600);

/// First and longest pause between attempts to fetch it.
pub const OWN_COLLATERAL_RETRY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(3600));

/// Queue of a listening socket.
pub const BACKLOG: i32 = 512;

/// Age at which our certificate is issued anew: half of its 48 hours.
pub const RENEW: Duration = Duration::from_secs(24 * 3600);

/// First and longest pause between attempts to get a certificate.
pub const RENEW_RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// Pause after `accept` fails for want of descriptors or memory.
pub const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The memory limit of the process (PID 1 sets it for its cgroup), in bytes.
pub const MEMORY: usize = 400 << 20;

/// What rustls holds of a connection: a record that is not whole yet, 2^14 + 256 bytes and a header (RFC 8446 section 5.2), and
/// what its peer does not read.
const TLS: usize = (18 << 10) + WRITE_BUFFER;

/// What a caller's connection can make us hold beside its requests.
const CALLER: usize = CONNECTION_WINDOW as usize + TLS;

/// What an exchange can: two header sections, and its bodies on their way from one connection to the other. Its place is given
/// back when the last byte of the answer is with rustls.
const EXCHANGE: usize = 2 * HEADER_BYTES + 2 * (READ_BUFFER + WRITE_BUFFER);

/// What a call to the agent can beside its exchange: the answer that we read, its strings, and what we make of them.
const AGENT_CALL_BYTES: usize = 3 * AGENT_ANSWER_BYTES;

/// What a stranger's connection can: over HTTP/2 its window is not below 2^16 - 1 bytes (RFC 9113 section 6.9.2), over HTTP/1.1
/// it is less.
const STRANGER_BYTES: usize = (64 << 10) + TLS + STRANGER_STREAMS as usize * STRANGER_HEADER_BYTES;

/// What an attestation takes: its bytes, in hex, in JSON.
const CHALLENGE: usize = (1 + 2 + 2) * ATTESTATION_BYTES;

/// What collateral takes on its way in: as it came in pieces, in one, read, and written anew.
const OFFER: usize = 4 * COLLATERAL_BYTES;

/// The worst that all peers and services together can make us hold is half of what we may have: the rest is for the program, and
/// for the kernel's socket buffers, which count as well.
const _: () = {
    let callers = CALLERS * CALLER + REQUESTS * EXCHANGE;
    let services = SERVICE_CONNECTIONS * (EXCHANGE + TLS) + AGENT_CALLS * AGENT_CALL_BYTES;
    let pooled = ALL_POOLED * (READ_BUFFER + TLS);
    let logs = LOG_ANSWERS * LOG_BYTES * 6;
    let strangers = STRANGERS * STRANGER_BYTES;
    let challenges = (ATTESTATIONS_OF_STRANGERS + ATTESTATIONS_OF_APPS) * CHALLENGE;
    let collateral = (OFFERS_OF_STRANGERS + OFFERS_OF_APPS + FETCHES) * OFFER;
    assert!(callers + services + strangers + pooled + logs + challenges + collateral <= MEMORY / 2);
};

const _: () = assert!(POOL_REST.as_secs() < HEADER.as_secs());
const _: () = assert!(RESPONSE.as_secs() < IDLE.as_secs());
