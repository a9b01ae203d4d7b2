#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod detected;
mod evidence;
mod guest;
mod host;
mod measured;
pub mod seeds;
mod share;
mod tdx;
mod time;
mod vpn;

/// What a target makes of an input that breaks no rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was read as what it should be, and every property of the result held.
    Accepted,
    /// It was refused.
    Refused,
}

impl Verdict {
    const fn accepted(so: bool) -> Self {
        if so { Self::Accepted } else { Self::Refused }
    }
}

/// One reader of hostile bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name on the command line, and of its folder of seeds.
    pub name: &'static str,
    /// Who writes these bytes.
    pub writer: &'static str,
    /// Folders of more seeds, from the top level of the tree.
    pub more_seeds: &'static [&'static str],
    /// The longest input that is tried, bytes: enough for every bound that the reader checks, or for its structure.
    pub max_len: usize,
    /// Reads the bytes; panics if a property does not hold.
    pub run: fn(&[u8]) -> Verdict,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    target("smbios", "the host, at power-on", 4096, measured::smbios),
    target("document", "the host, on its share", 64 << 10, measured::document).seeded(&["configs"]),
    target("mr-config", "the host, on its disk", 16 << 10, measured::mr_config),
    target("trailer", "whoever built the image", 64 << 10, measured::trailer),
    target("ccel", "firmware, or whoever changed its log", 16 << 10, measured::ccel)
        .seeded(&["measurements/tests/fixtures"]),
    target("event-log", "a peer, or whoever passed its log on", 32 << 10, measured::event_log)
        .seeded(&["measurements/tests/fixtures"]),
    target("tdvf", "whoever built the firmware", 16 << 10, tdx::tdvf),
    target("vm-shape", "whoever describes a machine", 16 << 10, tdx::shape),
    target("acpi-table", "whoever captured tables", 16 << 10, tdx::acpi_table),
    target("pe", "whoever built the image", 16 << 10, tdx::pe),
    target("bzimage", "whoever built the image", 16 << 10, tdx::bzimage),
    target("uki", "whoever built the image", 32 << 10, tdx::uki),
    target("expected", "whoever computed what to expect", 32 << 10, tdx::expected),
    target("status-frame", "the guest", 64, measured::status_frame),
    target("status-stream", "the guest", 1024, host::status_stream),
    target("qmp", "QEMU", 16 << 10, host::qmp),
    target("pcap", "QEMU and the guest", 16 << 10, host::pcap),
    target("share", "the host, on its disk", 16 << 10, share::image),
    target("share-fields", "the host, on its disk", 32 << 10, share::fields),
    target("share-answer", "a share process that was taken over", 4096, share::answer),
    target("boot-log", "firmware, or whoever changed its log", 16 << 10, evidence::boot_log)
        .seeded(&["init/agent/tests/fixtures"]),
    target("nts-exchange", "a time server", 16 << 10, time::exchange),
    target("nts-answer", "the network, in a time server's name", 2048, time::answer),
    target("time-report", "a time process that was taken over", 64, time::report),
    target("log-ring", "a PID 1 that was taken over", 8 << 10, guest::log_ring),
    target("dhcp", "the network", 8 << 10, guest::dhcp),
    target("dhcp-report", "a DHCP child that was taken over", 32, guest::dhcp_report),
    target("quote", "a peer, and the host's quoting service", 16 << 10, evidence::quote)
        .seeded(&["attestation/tests/fixtures"]),
    target("attestation", "a peer", 32 << 10, evidence::attestation),
    target("certificate", "a peer", 32 << 10, evidence::certificate),
    target("collateral", "a peer, or a cache", 32 << 10, evidence::collateral)
        .seeded(&["attestation/src/simulator"]),
    target("pccs", "whoever answers as the PCCS", 16 << 10, evidence::pccs),
    target("evidence", "a peer, or whoever passed its evidence on", 32 << 10, detected::evidence).seeded(&[
        "attestation/tests/fixtures",
        "tests/fuzz/seeds/attestation",
        "tests/fuzz/seeds/attestation-v1",
        "tests/fuzz/seeds/certificate",
        "tests/fuzz/seeds/ccel",
        "tests/fuzz/seeds/event-log",
    ]),
    target("attestation-v1", "a peer", 16 << 10, detected::msgpack),
    target("app-info", "whoever issued a peer's certificate", 2 << 10, detected::app_info),
    target("policy", "whoever wrote the policy", 16 << 10, detected::policy),
    target("noise", "the network, in a coordination server's name", 8 << 10, vpn::noise),
    target("map-stream", "a coordination server", 32 << 10, vpn::map_stream),
    target("joining", "a coordination server", 8 << 10, vpn::joining),
    target("registration", "a VPC server", 8 << 10, vpn::registration),
    target("derp", "a relay", 8 << 10, vpn::derp),
    target("datagram", "the network", 2 << 10, vpn::datagram),
    target("wireguard", "the network, in a peer's name", 1 << 10, vpn::wireguard),
    target("dns-query", "whoever is let in", 5 << 10, vpn::query),
    target("packet-filter", "a coordination server, and peers", 8 << 10, vpn::filter),
    target("super-packet", "the workload", 8 << 10, vpn::super_packet),
    target("coalesce", "peers", 8 << 10, vpn::coalesce),
    target("vpn-state", "a VPN process that was taken over", 16 << 10, vpn::state),
    target("vpn-message", "a VPN process that was taken over", 1024, vpn::message),
    target("vpn-config", "whoever runs it", 16 << 10, vpn::config),
];

/// Not one of [`TARGETS`]: its bug is found by whoever compares, and next to never by chance. A smoke run that does not
/// find it is not guided by coverage.
pub const PLANTED: Target = target("planted", "nobody", 64, planted);

const fn target(
    name: &'static str,
    writer: &'static str,
    max_len: usize,
    run: fn(&[u8]) -> Verdict,
) -> Target {
    Target { name, writer, more_seeds: &[], max_len, run }
}

impl Target {
    const fn seeded(self, more_seeds: &'static [&'static str]) -> Self {
        Self { more_seeds, ..self }
    }

    /// The target of that name, [`PLANTED`] included.
    pub fn of_name(name: &str) -> Option<&'static Self> {
        TARGETS.iter().chain([&PLANTED]).find(|target| target.name == name)
    }
}

/// One byte after the other has to be right, each behind a branch of its own.
fn planted(input: &[u8]) -> Verdict {
    let mut bytes = input.iter();
    if bytes.next() != Some(&b'C') {
        return Verdict::Refused;
    }
    if bytes.next() != Some(&b'A') {
        return Verdict::Accepted;
    }
    if bytes.next() != Some(&b'S') {
        return Verdict::Accepted;
    }
    if bytes.next() != Some(&b'E') {
        return Verdict::Accepted;
    }
    panic!("the planted bug was found");
}
