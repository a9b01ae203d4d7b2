//! The configuration file: read strictly, and complete before the first side effect.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use casemate_measure::document::json::Value;
use casemate_measure::document::{Problem, path};
use casemate_measure::section::DnsLabel;
use casemate_vpn::parent::network::{NAMES_V4, NAMES_V6};
use casemate_vpn::parent::{AuthKey, Dns, LoginServer};
use casemate_vpn::registration::Registration;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The longest file of any kind that the configuration names.
const MAX_LEN: u64 = 4 << 20;
/// The longest name of an interface (include/uapi/linux/if.h, `IFNAMSIZ` less its NUL).
const MAX_INTERFACE: usize = 15;
/// The longest URL to register at.
const MAX_URL: usize = 512;
/// Most queues that are of any use; the kernel has 256 (drivers/net/tun.c, `MAX_TAP_QUEUES`).
const MAX_QUEUES: u64 = 16;
/// Queues where the configuration says nothing.
const MOST_DEFAULT_QUEUES: usize = 4;
/// What no private network is: these have a meaning on this machine (RFC 6890).
const NEVER_V4: [Ipv4Net; 4] = [
    Ipv4Net::new_assert(Ipv4Addr::new(0, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 3),
];

/// What private networks have (RFC 1918, RFC 6598); of IPv6 nothing else is taken at all.
const PRIVATE_V4: [Ipv4Net; 4] = [
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
];

/// The documents' default (design section 7).
const DEFAULT_PREFIXES: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0), 48)),
];

/// A configuration that passed every check.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who coordinates the network; without a URL where the registration says it.
    pub login_server: LoginServer,
    /// Where the key to join with comes from, if not from the login server's part.
    pub registration: Option<Registration>,
    /// The file that the key to join with stands in, or will.
    pub authkey_file: Option<PathBuf>,
    /// The name to ask for.
    pub hostname: String,
    /// Where addresses may lie.
    pub prefixes: Vec<IpNet>,
    /// Digests of relays' certificates.
    pub derp_pins: BTreeMap<String, String>,
    /// Whether a network that allows everything is refused.
    pub require_policy: bool,
    /// What keeps the identity.
    pub state: Option<PathBuf>,
    /// The TUN.
    pub interface: String,
    /// The UDP port.
    pub port: u16,
    /// The TUN's MTU.
    pub mtu: u16,
    /// The TUN's queues.
    pub queues: usize,
    /// Whom the node runs as.
    pub uid: u32,
    /// Where it answers questions.
    pub status_socket: PathBuf,
    /// Names.
    pub dns: Dns,
    /// Whether this machine's own programs ask the node for names.
    pub resolv_conf: bool,
    /// Roots in PEM.
    pub roots: Option<String>,
    /// Relays in plain HTTP.
    pub debug_use_derp_http: bool,
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// What the file says.
    #[error("{file}: {problem}")]
    Problem {
        /// Which file.
        file: String,
        /// What is wrong.
        problem: Problem,
    },
    /// A file that it names, or itself, cannot be read.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why not.
        source: io::Error,
    },
}

impl Config {
    /// Checks a file's bytes alone: what it names by path is not read.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(bytes: &[u8]) -> Result<Self, Problem> {
        Parsed::read(bytes).map(|parsed| parsed.config)
    }

    /// What is taken, and should be known: a line each.
    pub(super) fn warnings(&self) -> Vec<String> {
        let is_public = |net: &&IpNet| match net {
            IpNet::V4(v4) => !PRIVATE_V4.iter().any(|private| private.contains(v4)),
            IpNet::V6(_) => false,
        };
        let warning = |net| {
            format!(
                "prefixes: {net} is public address space; hosts there cannot be reached while it is the private network's"
            )
        };
        self.prefixes.iter().filter(is_public).map(warning).collect()
    }

    /// Reads and checks a file, and those that it names.
    ///
    /// # Errors
    /// The first thing that is wrong: file, field, expectation, finding.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let file = path.display().to_string();
        let parsed = Parsed::read(&read(path)?).map_err(|problem| ConfigError::Problem { file, problem })?;
        let mut config = parsed.config;
        if let Some(path) = parsed.roots {
            config.roots = Some(text(&path)?);
        }
        if let (Some(path), Some(registration)) = (parsed.document, &mut config.registration) {
            registration.document = Some(document(&path)?);
        }
        if let Some(path) = &config.authkey_file {
            config.login_server.authkey = authkey(path)?;
        }
        Ok(config)
    }
}

/// The pre-auth key of a file. None: there is no file, or nothing in it; a key that did its work may be removed, and one may come.
///
/// # Errors
/// A file that cannot be read, or holds something else.
pub(super) fn authkey(path: &Path) -> Result<Option<AuthKey>, ConfigError> {
    let content = match text(path) {
        Err(ConfigError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        content => content?,
    };
    let key = content.trim();
    if key.is_empty() {
        return Ok(None);
    }
    if !is_authkey(key) {
        return Err(ConfigError::Problem {
            file: path.display().to_string(),
            problem: Problem::invalid("(content)", AUTHKEY, "something else"),
        });
    }
    Ok(Some(AuthKey::new(key.to_owned())))
}

/// What stands in the file itself.
struct Parsed {
    config: Config,
    roots: Option<PathBuf>,
    document: Option<PathBuf>,
}

const AUTHKEY: &str = "a pre-auth key of visible ASCII characters";

impl Parsed {
    fn read(bytes: &[u8]) -> Result<Self, Problem> {
        let mut top = Fields::of("", Some(Value::read(bytes)?))?;
        let (login_server, authkey_file, registration, document) = joins_by(&mut top)?;
        let (dns, resolv_conf) = match top.take("dns") {
            None => (Dns { listen: true, ..Dns::default() }, false),
            value => dns(Fields::of("dns", value)?)?,
        };
        let config = Config {
            login_server,
            authkey_file,
            registration,
            hostname: top.form("hostname", "a DNS label", None, |text| {
                DnsLabel::new(text).map(|label| label.to_string())
            })?,
            prefixes: prefixes(&mut top)?,
            derp_pins: derp_pins(&mut top)?,
            require_policy: top.boolean("require_policy", true)?,
            state: top.path("state")?,
            interface: top.form("interface", "the name of an interface", Some("casemate0"), interface)?,
            port: top.number("port", 1, 65535, 41641)?,
            mtu: top.number("mtu", 1280, 9000, 1280)?,
            queues: match top.take("queues") {
                None | Some(Value::Null) => default_queues(),
                Some(value) => {
                    top.put("queues", value);
                    top.number("queues", 1, MAX_QUEUES, 1)?
                }
            },
            uid: top.number("uid", 1, u64::from(u32::MAX) - 1, 65534)?,
            status_socket: top
                .path("status_socket")?
                .unwrap_or_else(|| super::sockets::DEFAULT_SOCKET.into()),
            dns,
            resolv_conf,
            roots: None,
            debug_use_derp_http: top.boolean("debug_use_derp_http", false)?,
        };
        let roots = top.path("roots")?;
        top.nothing_else()?;
        Ok(Self { config, roots, document })
    }
}

type JoinsBy = (LoginServer, Option<PathBuf>, Option<Registration>, Option<PathBuf>);

/// Who the login server is and where the key comes from: exactly one of the two parts says the latter.
fn joins_by(top: &mut Fields) -> Result<JoinsBy, Problem> {
    let (login, registers) = (top.optional("login_server"), top.optional("registration"));
    let Some(registers) = registers else {
        if login.is_none() {
            return Err(top.invalid("login_server", "an object, or one at registration", None));
        }
        let (login, file) = login_server(Fields::of("login_server", login)?)?;
        return Ok((login, file, None, None));
    };
    let found = registers.describe();
    let (registration, document) = registration(Fields::of("registration", Some(registers))?)?;
    let login = match login {
        None => {
            let plain_http = registration.plain_http;
            LoginServer { url: String::new(), noise_key: None, authkey: None, plain_http, locked: false }
        }
        some => {
            let (login, file) = login_server(Fields::of("login_server", some)?)?;
            if login.authkey.is_some() || file.is_some() {
                let expected = "null, since login_server.authkey says where the key comes from";
                return Err(Problem::invalid("registration", expected, found));
            }
            login
        }
    };
    Ok((login, None, Some(registration), document))
}

fn registration(mut fields: Fields) -> Result<(Registration, Option<PathBuf>), Problem> {
    let plain_http = fields.boolean("plain_http", false)?;
    let expected = if plain_http {
        "an https:// or http:// URL with a path and nothing behind it"
    } else {
        "an https:// URL with a path and nothing behind it, or http:// to loopback (plain_http: true for others)"
    };
    let url = fields.form("url", expected, None, |text| registration_url(text, plain_http))?;
    let document = fields.path("document")?;
    let node_type = match fields.optional("node_type") {
        None => None,
        Some(value) => {
            fields.put("node_type", value);
            let label = |text: &str| DnsLabel::new(text).map(|label| label.to_string());
            Some(fields.form("node_type", "a DNS label", None, label)?)
        }
    };
    fields.nothing_else()?;
    Ok((Registration { url, plain_http, node_type, document: None }, document))
}

/// The app-compose document: what is sent, so that it is one at all.
fn document(path: &Path) -> Result<String, ConfigError> {
    let text = text(path)?;
    let found = match Value::read(text.as_bytes()) {
        Ok(Value::Object(_)) => return Ok(text),
        Ok(other) => Problem::invalid("(content)", "an app-compose document", other.describe()),
        Err(problem) => problem,
    };
    Err(ConfigError::Problem { file: path.display().to_string(), problem: found })
}

fn login_server(mut fields: Fields) -> Result<(LoginServer, Option<PathBuf>), Problem> {
    let plain_http = fields.boolean("plain_http", false)?;
    let expected = if plain_http {
        "an https:// or http:// URL"
    } else {
        "an https:// URL, or http:// to loopback (plain_http: true for others)"
    };
    let url = fields.form("url", expected, None, |text| login_url(text, plain_http))?;
    let noise_key = match fields.optional("noise_key") {
        None => None,
        Some(value) => {
            fields.put("noise_key", value);
            Some(fields.form("noise_key", "mkey: and 64 hex digits", None, |text| text.parse().ok())?)
        }
    };
    let (mut authkey, mut file) = (None, None);
    match fields.optional("authkey") {
        None => {}
        Some(value @ Value::Object(_)) => {
            let mut of = Fields::of(&fields.at("authkey"), Some(value))?;
            file = of.path("file")?;
            if file.is_none() {
                return Err(Problem::invalid(&of.at("file"), "a path", "nothing"));
            }
            of.nothing_else()?;
        }
        // What was found is not repeated: it may be a key all the same.
        Some(Value::Text(text)) if is_authkey(&text) => authkey = Some(AuthKey::new(text)),
        Some(_) => return Err(Problem::invalid(&fields.at("authkey"), AUTHKEY, "something else")),
    }
    fields.nothing_else()?;
    Ok((LoginServer { url, noise_key, authkey, plain_http, locked: false }, file))
}

fn dns(mut fields: Fields) -> Result<(Dns, bool), Problem> {
    let dns = Dns {
        listen: fields.boolean("listen", true)?,
        resolvers: fields
            .each("resolvers", "IP:PORT, not of this node", |text| {
                let not_us = |ip: IpAddr| ip != IpAddr::V4(NAMES_V4) && ip != IpAddr::V6(NAMES_V6);
                let address = text.parse().ok();
                address
                    .filter(|address: &SocketAddr| address.port() != 0 && not_us(address.ip().to_canonical()))
            })?
            .unwrap_or_default(),
        internal_only: fields.boolean("internal_only", false)?,
        allowlist: fields.each("allowlist", "a DNS name", dns_name)?.unwrap_or_default(),
        authenticated: Vec::new(),
    };
    let resolv_conf = fields.boolean("resolv_conf", false)?;
    if resolv_conf && !dns.listen {
        return Err(Problem::invalid(
            &fields.at("resolv_conf"),
            "false, since dns.listen is: nobody would answer",
            "true",
        ));
    }
    fields.nothing_else()?;
    Ok((dns, resolv_conf))
}

fn prefixes(top: &mut Fields) -> Result<Vec<IpNet>, Problem> {
    let Some(found) = top.each("prefixes", "a prefix that may be a private network's", prefix)? else {
        return Ok(DEFAULT_PREFIXES.to_vec());
    };
    for (number, one) in found.iter().enumerate() {
        let overlap = |other: &&IpNet| one.contains(*other) || other.contains(one);
        if let Some(other) = found.iter().take(number).find(overlap) {
            let expected = format!("prefixes that do not overlap, as {other} does");
            return Err(Problem::invalid(&path::index("prefixes", number), expected, one.to_string()));
        }
    }
    if found.is_empty() {
        return Err(Problem::invalid("prefixes", "at least one prefix", "[]"));
    }
    Ok(found)
}

fn derp_pins(top: &mut Fields) -> Result<BTreeMap<String, String>, Problem> {
    let mut pins = BTreeMap::new();
    let Some(value) = top.take("derp_pins") else { return Ok(pins) };
    let mut fields = Fields::of("derp_pins", Some(value))?;
    while let Some(host) = fields.fields.keys().next().cloned() {
        if dns_name(&host).is_none() {
            return Err(Problem::invalid(&fields.at(&host), "a key that is a DNS name", "another"));
        }
        let pin = fields.form(&host, "64 hex digits", None, |text| {
            let good = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            good.then(|| text.to_owned())
        })?;
        pins.insert(host, pin);
    }
    Ok(pins)
}

/// The fields of one object, taken one by one; what is left over is unknown.
struct Fields {
    path: String,
    fields: BTreeMap<String, Value>,
    seen: Vec<String>,
}

impl Fields {
    fn of(path: &str, value: Option<Value>) -> Result<Self, Problem> {
        match value {
            Some(Value::Object(fields)) => Ok(Self { path: path.to_owned(), fields, seen: Vec::new() }),
            other => {
                Err(invalid(if path.is_empty() { "(top level)" } else { path }, "an object", other.as_ref()))
            }
        }
    }

    /// The path of a field. Its name may be the file's own: escaped, and cut if it is long.
    fn at(&self, name: &str) -> String {
        path::key(&self.path, name)
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.seen.push(name.to_owned());
        self.fields.remove(name)
    }

    fn put(&mut self, name: &str, value: Value) {
        self.fields.insert(name.to_owned(), value);
    }

    /// `null` counts as absent.
    fn optional(&mut self, name: &str) -> Option<Value> {
        self.take(name).filter(|value| *value != Value::Null)
    }

    fn invalid(&self, name: &str, expected: &str, found: Option<&Value>) -> Problem {
        invalid(&self.at(name), expected, found)
    }

    fn boolean(&mut self, name: &str, default: bool) -> Result<bool, Problem> {
        match self.take(name) {
            None => Ok(default),
            Some(Value::Boolean(value)) => Ok(value),
            other => Err(self.invalid(name, "true or false", other.as_ref())),
        }
    }

    fn number<T: TryFrom<u64>>(&mut self, name: &str, min: u64, max: u64, default: T) -> Result<T, Problem> {
        let value = self.take(name);
        let number = match &value {
            None => return Ok(default),
            Some(Value::Number(number)) => number.as_u64().filter(|number| (min..=max).contains(number)),
            Some(_) => None,
        };
        number
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| self.invalid(name, &format!("a whole number from {min} to {max}"), value.as_ref()))
    }

    fn form<T>(
        &mut self,
        name: &str,
        expected: &str,
        default: Option<&str>,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, Problem> {
        let value = self.take(name);
        let text = match (&value, default) {
            (Some(Value::Text(text)), _) => Some(text.as_str()),
            (None, default) => default,
            (Some(_), _) => None,
        };
        text.and_then(read).ok_or_else(|| self.invalid(name, expected, value.as_ref()))
    }

    fn each<T>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<Vec<T>>, Problem> {
        let value = self.take(name);
        let items = match &value {
            None => return Ok(None),
            Some(Value::List(items)) => items,
            other => return Err(self.invalid(name, "a list", other.as_ref())),
        };
        let item = |(number, item): (usize, &Value)| {
            let text = if let Value::Text(text) = item { Some(text.as_str()) } else { None };
            let at = || path::index(&self.at(name), number);
            text.and_then(&read).ok_or_else(|| invalid(&at(), expected, Some(item)))
        };
        items.iter().enumerate().map(item).collect::<Result<_, _>>().map(Some)
    }

    /// An absolute path, or none.
    fn path(&mut self, name: &str) -> Result<Option<PathBuf>, Problem> {
        match self.optional(name) {
            None => Ok(None),
            Some(Value::Text(text)) if text.starts_with('/') && !text.contains('\0') => Ok(Some(text.into())),
            other => Err(self.invalid(name, "an absolute path", other.as_ref())),
        }
    }

    fn nothing_else(self) -> Result<(), Problem> {
        let Some(unknown) = self.fields.keys().next() else { return Ok(()) };
        let mut known: Vec<&str> = self.seen.iter().map(String::as_str).collect();
        known.sort_unstable();
        known.dedup();
        Err(Problem::UnknownKey { path: self.at(unknown), expected: known.join(", ") })
    }
}

fn invalid(at: &str, expected: &str, found: Option<&Value>) -> Problem {
    let found = found.map_or_else(|| "nothing".to_owned(), Value::describe);
    Problem::invalid(at, expected, found)
}

fn is_authkey(text: &str) -> bool {
    !text.is_empty() && text.len() <= 512 && text.bytes().all(|b| b.is_ascii_graphic())
}

fn interface(text: &str) -> Option<String> {
    // net/core/dev.c, `dev_valid_name`, and nothing that a pattern or a path could be made of.
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let good = (1..=MAX_INTERFACE).contains(&text.len())
        && text.bytes().all(plain)
        && !matches!(text, "." | ".." | "all" | "default" | "lo");
    good.then(|| text.to_owned())
}

fn prefix(text: &str) -> Option<IpNet> {
    let net: IpNet = text.parse().ok()?;
    let possible = match net {
        IpNet::V4(v4) => !NEVER_V4.iter().any(|never| never.contains(&v4) || v4.contains(never)),
        // Unique local addresses (RFC 4193).
        IpNet::V6(v6) => v6.prefix_len() >= 8 && v6.addr().is_unique_local(),
    };
    (net == net.trunc() && possible).then_some(net)
}

fn dns_name(text: &str) -> Option<String> {
    let labels = text.split('.').all(|label| DnsLabel::new(label).is_some());
    (text.len() <= 253 && labels).then(|| text.to_owned())
}

/// `http://` only where it stays on this machine, or where it is wanted.
fn login_url(text: &str, plain_http: bool) -> Option<String> {
    let (rest, secure) = match text.strip_prefix("https://") {
        Some(rest) => (rest, true),
        None => (text.strip_prefix("http://")?, false),
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            (host, port)
        }
        None => authority.find(':').map_or((authority, ""), |at| authority.split_at(at)),
    };
    let good_port = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some(port) => {
            port.bytes().all(|b| b.is_ascii_digit()) && port.parse().is_ok_and(|port: u16| port != 0)
        }
    };
    let address: Option<IpAddr> = host.parse().ok();
    let loopback = host == "localhost" || address.is_some_and(|ip| ip.is_loopback());
    let good_host = address.is_some() || dns_name(host).is_some();
    (good_host && good_port && (secure || loopback || plain_http)).then(|| text.to_owned())
}

/// The same, with a path behind it.
fn registration_url(text: &str, plain_http: bool) -> Option<String> {
    let scheme = text.find("://")?.checked_add(3)?;
    let path = text.get(scheme..)?.find('/')?.checked_add(scheme)?;
    let (server, path) = text.split_at_checked(path)?;
    let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'?' | b'#');
    login_url(server, plain_http)?;
    (path.len() > 1 && text.len() <= MAX_URL && path.bytes().all(plain)).then(|| text.to_owned())
}

fn default_queues() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get().min(MOST_DEFAULT_QUEUES))
}

fn read(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let mut bytes = Vec::new();
    let failed = |source| ConfigError::File { path: path.display().to_string(), source };
    let file = fs::File::open(path).map_err(failed)?;
    file.take(MAX_LEN.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_LEN) {
        return Err(failed(io::Error::other(format!("expected at most {MAX_LEN} bytes, found more"))));
    }
    Ok(bytes)
}

fn text(path: &Path) -> Result<String, ConfigError> {
    String::from_utf8(read(path)?).map_err(|_| ConfigError::File {
        path: path.display().to_string(),
        source: io::Error::other("expected text, found something else"),
    })
}

#[cfg(test)]
mod tests;
