//! The `casemate` section of the measured document, as checked types (design section 3).
//!
//! Every value here has passed the checks of [`crate::document`]; nothing else builds a
//! [`crate::MeasuredConfig`] around it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::{IpNet, Ipv4Net};

use crate::identity::AppId;

/// The port on 127.0.0.1 inside each service's namespace where the outbound mesh proxy listens; no service listens there.
pub const OUTBOUND_PORT: u16 = 8888;

/// Names of our own processes, and PID 1's own, in logs and in status: no service may have one.
pub const OWN_PROCESSES: &[&str] = &["agent", "casemate", "dhcp", "mesh", "share", "time", "vpc", "vpn"];

/// The whole section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// What this machine is.
    pub role: Role,
    /// Its name and type on the network.
    pub node: Node,
    /// How the physical link gets its address.
    pub network: Network,
    /// Authenticated resolvers.
    pub dns: Dns,
    /// Authenticated time sources.
    pub time: Time,
    /// Where collateral comes from.
    pub collateral: Collateral,
    /// The dstack gateway, if any.
    pub gateway: Option<Gateway>,
    /// The private network.
    pub vpn: Vpn,
    /// What may leave.
    pub egress: Egress,
    /// Who may call whom.
    pub mesh: Mesh,
    /// Who may read the log rings.
    pub logs: Logs,
    /// Operators, by certificate.
    pub operators: Operators,
    /// The VPC server's part; present exactly when `role` is [`Role::Server`].
    pub server: Option<Server>,
    /// The workload, in document order. Index `i` here is service number `i + 1` (198.18.(i + 1).0/30).
    pub services: Vec<Service>,
}

/// `role`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `"node"`.
    Node,
    /// `"server"`.
    Server,
}

/// `node`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// A DNS label.
    pub name: DnsLabel,
    /// What discovery finds it by; a DNS label.
    pub kind: DnsLabel,
}

/// A DNS label: 1 to 63 of `a-z`, `0-9`, `-`, no hyphen at either end (RFC 1035 section 2.3.1, RFC 1123 section 2.1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DnsLabel(String);

impl DnsLabel {
    /// Checks and wraps; `None` if it is no label.
    pub fn new(text: &str) -> Option<Self> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let good = (1..=63).contains(&text.len())
            && text.bytes().all(inner)
            && !text.starts_with('-')
            && !text.ends_with('-');
        good.then(|| Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for DnsLabel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// `network`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// `{"mode": "dhcp"}`.
    Dhcp,
    /// `{"mode": "static", …}`: the gateway lies inside the prefix and is not the address.
    Static {
        /// Our address with its prefix.
        address: Ipv4Net,
        /// The gateway.
        gateway: std::net::Ipv4Addr,
    },
}

/// `dns`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// Authenticated resolvers, in order of preference.
    pub resolvers: Vec<Resolver>,
}

/// One entry of `dns.resolvers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolver {
    /// DNS over TLS or over HTTPS.
    pub kind: ResolverKind,
    /// Where it listens.
    pub address: SocketAddr,
    /// The name its certificate must carry.
    pub name: String,
}

/// `dns.resolvers[].kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolverKind {
    /// `"dot"` (RFC 7858).
    Dot,
    /// `"doh"` (RFC 8484).
    Doh,
}

/// `time`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// NTS servers (RFC 8915); empty: the host's clock, said so in status.
    pub nts: Vec<NtsServer>,
}

/// One entry of `time.nts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NtsServer {
    /// Where its key exchange listens.
    pub address: SocketAddr,
    /// The name its certificate must carry.
    pub name: String,
}

/// `collateral`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collateral {
    /// A server to fetch our own from; none: whoever calls us may bring it.
    pub pccs: Option<Pccs>,
    /// How long ago it may have been issued, in days.
    pub max_age_days: u16,
}

/// `collateral.pccs`: a cache of Intel's provisioning certification service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pccs {
    /// Its base URL, `https://HOST[:PORT][/PATH]`, without a slash at its end.
    pub url: String,
    /// Where it listens, on the URL's port: nothing resolves the URL's host.
    pub address: SocketAddr,
}

/// `gateway`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// The domain under which apps are reached.
    pub domain: String,
    /// Its addresses.
    pub addresses: Vec<SocketAddr>,
}

/// `vpn`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vpn {
    /// With or without a VPN.
    pub mode: VpnMode,
    /// Whose registration API to call.
    pub server_app_id: ServerAppId,
    /// A plain Headscale instead.
    pub login_server: Option<LoginServer>,
    /// The prefixes that belong to the tailnet.
    pub prefixes: Vec<IpNet>,
    /// DERP host name to `sha256-raw` certificate pin, 64 hex digits.
    pub derp_pins: BTreeMap<String, [u8; 32]>,
    /// TCP ports that DERP servers may have.
    pub derp_ports: Vec<u16>,
    /// Refuse a map without a packet filter.
    pub require_policy: bool,
}

/// `vpn.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VpnMode {
    /// `"tunnel"`.
    Tunnel,
    /// `"direct"`: no VPN; the mesh goes through the gateway or to fixed targets.
    Direct,
}

/// `vpn.server_app_id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerAppId {
    /// `"self"`: our own app id.
    Own,
    /// 40 hex digits.
    App(AppId),
}

/// `vpn.login_server`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginServer {
    /// `https://…`, or `http://…`: to loopback, or with `plain_http`.
    pub url: String,
    /// Whether `http://` may go to another machine; then the key is pinned.
    pub plain_http: bool,
    /// `mkey:` and 64 hex digits.
    pub noise_key: Option<[u8; 32]>,
    /// A pre-auth key, or where it comes from.
    pub authkey: AuthKey,
}

/// `vpn.login_server.authkey`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthKey {
    /// The key itself.
    Literal(String),
    /// The name of an environment variable among dstack's `allowed_envs`.
    Env(String),
}

/// `egress`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Egress {
    /// The mode, which also picks the tag.
    pub mode: EgressMode,
    /// The list of `allowlist` mode; empty in the others.
    pub allow: Vec<EgressAllow>,
    /// Log denied packets (they are always counted).
    pub log_denied: bool,
}

/// `egress.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EgressMode {
    /// `"internal-only"`.
    InternalOnly,
    /// `"allowlist"`: internal-only plus its list.
    Allowlist,
    /// `"external-allowed"`.
    ExternalAllowed,
}

impl EgressMode {
    /// The tag a node of this mode gets on the VPN.
    pub const fn tag(self) -> &'static str {
        match self {
            Self::InternalOnly | Self::Allowlist => "tag:internal-only",
            Self::ExternalAllowed => "tag:external-allowed",
        }
    }
}

/// One entry of `egress.allow`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressAllow {
    /// Where to.
    pub to: EgressDestination,
    /// The port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

/// `host` or `cidr` of an allow entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EgressDestination {
    /// A host name, resolved in the guest.
    Host(String),
    /// A prefix.
    Cidr(IpNet),
}

/// `proto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `"tcp"`.
    Tcp,
    /// `"udp"`.
    Udp,
}

/// `mesh`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mesh {
    /// What we serve.
    pub backends: Vec<Backend>,
    /// TCP ports inside a service that lead to another app.
    pub forwards: Vec<Forward>,
    /// App id to address, when there is neither VPN nor gateway.
    pub targets: BTreeMap<AppId, SocketAddr>,
    /// How a peer is verified.
    pub verify: Verify,
    /// Whose code is acceptable; not empty where `verify` contains `quote` and anything of the mesh is used.
    pub images: Vec<AcceptableImage>,
    /// The lowest TLS version.
    pub tls_min: TlsVersion,
}

/// One entry of `mesh.backends`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The port on all addresses of the appliance.
    pub listen: u16,
    /// HTTP, or bytes.
    pub kind: BackendKind,
    /// The service and its port.
    pub to: ServicePort,
    /// Who may call.
    pub allow: Vec<Caller>,
}

/// `mesh.backends[].kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// `"http"`.
    Http,
    /// `"tcp"`.
    Tcp,
}

/// `"service:port"`; the service exists and lists the port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Index into [`Section::services`].
    pub service: usize,
    /// The port on the service's address.
    pub port: u16,
}

/// One entry of an `allow` list of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// `"any"`: any app of an acceptable image.
    Any,
    /// 40 hex digits: this app.
    App(AppId),
    /// `tag:…`: apps whose measured document has that tag.
    Tag(String),
}

/// One entry of `mesh.forwards`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Index into [`Section::services`]: inside whose namespace it listens.
    pub service: usize,
    /// The port on 127.0.0.1 there.
    pub listen: u16,
    /// The target app.
    pub app_id: AppId,
    /// The target port.
    pub port: u16,
}

/// `mesh.verify`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// `"ca"`: a KMS judged the image before it signed.
    Ca,
    /// `"quote"`.
    Quote,
    /// `"ca+quote"`.
    CaAndQuote,
}

/// One entry of `mesh.images`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AcceptableImage {
    /// `"same"`: MRTD, RTMR1, RTMR2 equal to our own quote's.
    Same,
    /// Explicit registers; an absent one is not compared, a zero one satisfies nothing.
    Registers(ImageRegisters),
}

/// Explicit registers of an acceptable image. At least `rtmr2` is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRegisters {
    /// MRTD.
    pub mrtd: Option<crate::Register>,
    /// RTMR0.
    pub rtmr0: Option<crate::Register>,
    /// RTMR1.
    pub rtmr1: Option<crate::Register>,
    /// RTMR2: command line and initramfs, thus our code.
    pub rtmr2: crate::Register,
}

/// `mesh.tls_min`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// `"1.2"`.
    V1_2,
    /// `"1.3"`.
    V1_3,
}

/// `logs`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logs {
    /// Who may read; empty: nobody.
    pub readers: Vec<LogReader>,
}

/// One entry of `logs.readers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogReader {
    /// An app id.
    App(AppId),
    /// `"operators"`.
    Operators,
}

/// `operators`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operators {
    /// Their certificates.
    pub certificates: Vec<OperatorCertificate>,
}

/// One entry of `operators.certificates`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorCertificate {
    /// SHA-256 of the DER certificate.
    pub sha256: [u8; 32],
    /// Projects the operator may act for.
    pub projects: Vec<String>,
}

/// `server`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// App id to what it may be.
    pub allowed_apps: BTreeMap<AppId, AllowedApp>,
    /// Which Headscale.
    pub headscale: Headscale,
    /// Run without a KMS: state dies with the machine.
    pub ephemeral: bool,
}

/// One value of `server.allowed_apps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedApp {
    /// Tags it may have.
    pub tags: Vec<String>,
}

/// `server.headscale`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Headscale {
    /// `{"kind": "bundled"}`.
    Bundled,
    /// `{"kind": "external", "address": "IP:PORT"}`.
    External(SocketAddr),
}

/// One entry of `services`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name, unique.
    pub name: DnsLabel,
    /// Program and arguments; the program is an absolute path inside `rootfs`.
    pub exec: Vec<String>,
    /// The workload directory of the image that becomes its root.
    pub rootfs: DnsLabel,
    /// Its uid and gid, 1000 to 65533, unique.
    pub uid: u32,
    /// Its environment.
    pub env: BTreeMap<String, String>,
    /// Ports it listens on, reachable for the mesh only.
    pub ports: Vec<u16>,
    /// Mount point to size in bytes.
    pub tmpfs: BTreeMap<String, u64>,
    /// When it is started again.
    pub restart: Restart,
    /// cgroup `memory.max` in bytes.
    pub memory_max: u64,
    /// cgroup `pids.max`.
    pub pids_max: u32,
    /// cgroup `cpu.max`, in percent of one CPU.
    pub cpu_max: u32,
    /// What it may ask of the guest agent.
    pub dstack: Option<ServiceDstack>,
}

/// `services[].restart`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// `"always"`.
    Always,
    /// `"on-failure"`.
    OnFailure,
    /// `"never"`.
    Never,
}

/// `services[].dstack`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceDstack {
    /// Key paths it may derive; a trailing `*` matches any rest.
    pub get_key: Vec<String>,
    /// Which quotes it may ask for.
    pub quote: ServiceQuote,
}

/// `services[].dstack.quote`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceQuote {
    /// `"none"`.
    None,
    /// `"app-data"`: tagged data only.
    AppData,
    /// `"raw"`: it can speak as the appliance.
    Raw,
}

impl Service {
    /// The service's own end of its veth pair: 198.18.*n*.2/30 (design section 5), *n* from 1.
    pub fn address(number: u8) -> IpAddr {
        IpAddr::from([198, 18, number, 2])
    }

    /// Our end: 198.18.*n*.1/30.
    pub fn gateway(number: u8) -> IpAddr {
        IpAddr::from([198, 18, number, 1])
    }
}
