//! The handover from PID 1: what the measured document says about the mesh, and who we are.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use casemate_measure::section::{self, Section};
use casemate_measure::{AppId, ComposeHash, LaunchRegisters, Register};
use serde::{Deserialize, Serialize};

use crate::{MeshError, ServiceDstack};

/// Everything the mesh is told. JSON on the way from PID 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Our own launch registers: what the image rule `same` compares with.
    pub own: LaunchRegisters,
    /// Our own app id.
    pub own_app: AppId,
    /// The compose hash of our own document.
    pub own_compose: ComposeHash,
    /// Whose root signs quotes.
    pub trust: Trust,
    /// How platforms are judged.
    pub collateral: CollateralRule,
    /// Whose code is acceptable; empty: nobody's.
    pub images: Vec<ImageRule>,
    /// The lowest TLS version.
    pub tls_min: TlsMin,
    /// What we serve.
    pub backends: Vec<Backend>,
    /// App id to its measured address.
    pub targets: BTreeMap<AppId, SocketAddr>,
    /// The services whose outbound listeners are handed over, in the order of the listeners.
    pub outbound: Vec<Outbound>,
    /// The apps that may read the log rings; empty: nobody.
    pub log_readers: Vec<AppId>,
    /// The names of the log rings that are handed over, in their order. None without readers.
    pub logs: Vec<String>,
}

/// Whose root of trust signs quotes. PID 1 chooses by the TEE it runs on; no document key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trust {
    /// Intel's.
    Intel,
    /// The simulated TEE's published one. Not in the production guest.
    #[cfg(feature = "simulator")]
    Simulator,
}

/// `collateral`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollateralRule {
    /// Where our own is fetched; none: whoever calls may bring it.
    pub pccs: Option<Pccs>,
    /// How long ago it may have been issued, in days.
    pub max_age_days: u16,
}

/// `collateral.pccs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pccs {
    /// Its base URL, `https://HOST[:PORT][/PATH]`, without a slash at its end.
    pub url: String,
    /// Where it listens.
    pub address: SocketAddr,
}

/// One entry of `mesh.images`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageRule {
    /// Our own image.
    Same,
    /// Explicit registers; an absent one is not compared, a zero one satisfies nothing.
    Registers(ImageRegisters),
}

/// Registers of an acceptable image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRegisters {
    /// Firmware.
    pub mrtd: Option<Register>,
    /// Firmware configuration and ACPI.
    pub rtmr0: Option<Register>,
    /// Kernel.
    pub rtmr1: Option<Register>,
    /// Command line and initramfs.
    pub rtmr2: Register,
}

/// `mesh.tls_min`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsMin {
    /// TLS 1.2 (RFC 5246).
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3 (RFC 8446).
    #[serde(rename = "1.3")]
    V1_3,
}

/// One inbound listener and where it leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// The port on all addresses of the appliance. 0: any free one, which only [`crate::Mesh::listening`] knows.
    pub listen: u16,
    /// The service's address and port.
    pub to: SocketAddr,
    /// The service's name, for logs.
    pub service: String,
    /// Who may call; empty: nobody.
    pub allow: Vec<Caller>,
}

/// One entry of an `allow` list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Caller {
    /// Any app of an acceptable image.
    Any,
    /// This app, of an acceptable image.
    App(AppId),
}

impl Caller {
    /// Whether this entry lets that app in.
    pub fn admits(&self, app: &AppId) -> bool {
        match self {
            Self::Any => true,
            Self::App(id) => id == app,
        }
    }
}

/// One service with an outbound listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outbound {
    /// Its name, for logs.
    pub service: String,
    /// What it may ask of the guest agent; `None`: nothing.
    pub dstack: Option<ServiceDstack>,
}

impl Config {
    /// The mesh's part of a measured document: one backend for each of `mesh.backends`, one outbound listener for each
    /// service, in document order; no log ring yet.
    ///
    /// # Errors
    /// [`MeshError::NotImplemented`] for a backend of bytes, a forward, a caller by tag, operators as
    /// readers of logs, or a way to verify other than `quote`;
    /// [`MeshError::UnknownService`] for a backend of a service that the section does not have.
    pub fn of(
        section: &Section,
        own: LaunchRegisters,
        own_app: AppId,
        own_compose: ComposeHash,
        trust: Trust,
    ) -> Result<Self, MeshError> {
        let mesh = &section.mesh;
        if !mesh.forwards.is_empty() {
            return Err(MeshError::NotImplemented("casemate.mesh.forwards".to_owned()));
        }
        if mesh.verify != section::Verify::Quote {
            return Err(MeshError::NotImplemented("casemate.mesh.verify".to_owned()));
        }
        let reader = |reader: &section::LogReader| match reader {
            section::LogReader::App(id) => Ok(*id),
            section::LogReader::Operators => {
                Err(MeshError::NotImplemented("casemate.logs.readers: operators".to_owned()))
            }
        };
        let backends = mesh.backends.iter().enumerate();
        Ok(Self {
            own,
            own_app,
            own_compose,
            trust,
            collateral: CollateralRule::from(&section.collateral),
            images: mesh.images.iter().map(ImageRule::from).collect(),
            tls_min: mesh.tls_min.into(),
            backends: backends.map(|(i, b)| Backend::of(section, i, b)).collect::<Result<_, _>>()?,
            targets: mesh.targets.clone(),
            outbound: section.services.iter().map(Outbound::of).collect(),
            log_readers: section.logs.readers.iter().map(reader).collect::<Result<_, _>>()?,
            logs: Vec::new(),
        })
    }
}

impl Outbound {
    fn of(service: &section::Service) -> Self {
        Self { service: service.name.to_string(), dstack: service.dstack.as_ref().map(ServiceDstack::from) }
    }
}

impl Backend {
    fn of(section: &Section, index: usize, backend: &section::Backend) -> Result<Self, MeshError> {
        let path = |key: &str| format!("casemate.mesh.backends[{index}].{key}");
        if backend.kind != section::BackendKind::Http {
            return Err(MeshError::NotImplemented(path("kind")));
        }
        let unknown = || MeshError::UnknownService(path("to"));
        let service = section.services.get(backend.to.service).ok_or_else(unknown)?;
        let number =
            backend.to.service.checked_add(1).and_then(|n| u8::try_from(n).ok()).ok_or_else(unknown)?;
        let allow = backend.allow.iter().map(|caller| match caller {
            section::Caller::Any => Ok(Caller::Any),
            section::Caller::App(id) => Ok(Caller::App(*id)),
            section::Caller::Tag(_) => Err(MeshError::NotImplemented(path("allow"))),
        });
        Ok(Self {
            listen: backend.listen,
            to: SocketAddr::new(section::Service::address(number), backend.to.port),
            service: service.name.to_string(),
            allow: allow.collect::<Result<_, _>>()?,
        })
    }
}

impl From<&section::Collateral> for CollateralRule {
    fn from(rule: &section::Collateral) -> Self {
        let pccs = rule.pccs.as_ref();
        Self {
            pccs: pccs.map(|pccs| Pccs { url: pccs.url.clone(), address: pccs.address }),
            max_age_days: rule.max_age_days,
        }
    }
}

impl From<&section::AcceptableImage> for ImageRule {
    fn from(image: &section::AcceptableImage) -> Self {
        match image {
            section::AcceptableImage::Same => Self::Same,
            section::AcceptableImage::Registers(r) => Self::Registers(ImageRegisters {
                mrtd: r.mrtd,
                rtmr0: r.rtmr0,
                rtmr1: r.rtmr1,
                rtmr2: r.rtmr2,
            }),
        }
    }
}

impl From<section::TlsVersion> for TlsMin {
    fn from(version: section::TlsVersion) -> Self {
        match version {
            section::TlsVersion::V1_2 => Self::V1_2,
            section::TlsVersion::V1_3 => Self::V1_3,
        }
    }
}

#[cfg(test)]
mod tests {
    use casemate_measure::{MeasuredConfig, Platform};

    use super::*;
    use crate::ServiceQuote;

    fn config() -> Config {
        let app = AppId([7; 20]);
        Config {
            own: LaunchRegisters { rtmr2: Register([2; 48]), ..LaunchRegisters::ZERO },
            own_app: app,
            own_compose: ComposeHash([7; 32]),
            trust: Trust::Intel,
            collateral: CollateralRule {
                pccs: Some(Pccs {
                    url: "https://pccs.example".to_owned(),
                    address: SocketAddr::from(([192, 0, 2, 8], 443)),
                }),
                max_age_days: 30,
            },
            images: vec![
                ImageRule::Same,
                ImageRule::Registers(ImageRegisters {
                    mrtd: None,
                    rtmr0: None,
                    rtmr1: Some(Register([1; 48])),
                    rtmr2: Register([2; 48]),
                }),
            ],
            tls_min: TlsMin::V1_3,
            backends: vec![Backend {
                listen: 443,
                to: SocketAddr::from(([198, 18, 1, 2], 8000)),
                service: "web".to_owned(),
                allow: vec![Caller::Any, Caller::App(app)],
            }],
            targets: BTreeMap::from([(app, SocketAddr::from(([10, 0, 2, 2], 443)))]),
            outbound: vec![Outbound {
                service: "web".to_owned(),
                dstack: Some(ServiceDstack {
                    get_key: vec!["web/*".to_owned()],
                    quote: ServiceQuote::AppData,
                }),
            }],
            log_readers: vec![app],
            logs: vec!["web".to_owned()],
        }
    }

    #[test]
    fn survives_the_handover() {
        let text = serde_json::to_string(&config()).unwrap();
        assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config());
    }

    #[test]
    fn refuses_an_unknown_key() {
        let mut json = serde_json::to_value(config()).unwrap();
        json.as_object_mut().unwrap().insert("insecure".to_owned(), true.into());
        let error = serde_json::from_value::<Config>(json).unwrap_err();
        assert!(error.to_string().contains("insecure"), "{error}");
    }

    #[test]
    fn a_document_becomes_a_configuration() {
        let document = include_bytes!("../../../configs/node.app-compose.json");
        let measured = MeasuredConfig::parse("node.app-compose.json", document, Platform::Appliance).unwrap();
        let of = |section: &Section| {
            let app = measured.app_id();
            Config::of(section, LaunchRegisters::ZERO, app, measured.compose_hash(), Trust::Intel)
        };
        let config = of(measured.section()).unwrap();
        let to: Vec<_> =
            config.backends.iter().map(|b| (b.listen, b.to.to_string(), b.service.as_str())).collect();
        let expected =
            [(443, "198.18.1.2:8000".to_owned(), "web"), (8443, "198.18.2.2:9000".to_owned(), "api")];
        assert_eq!(to, expected);
        assert_eq!(config.backends[0].allow, [Caller::Any]);
        assert!(matches!(config.backends[1].allow[..], [Caller::App(_)]));
        assert!(matches!(config.images[..], [ImageRule::Same, ImageRule::Registers(_)]));
        assert_eq!(config.tls_min, TlsMin::V1_3);
        assert_eq!(config.targets.values().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.2.2:18443"]);
        let services: Vec<_> = config.outbound.iter().map(|o| o.service.as_str()).collect();
        assert_eq!(services, ["web", "api"]);

        assert_eq!(config.collateral, CollateralRule { pccs: None, max_age_days: 30 });
        let mut fetched = measured.section().clone();
        let url = "https://pccs.example:8081/x";
        let address = SocketAddr::from(([192, 0, 2, 8], 8081));
        fetched.collateral =
            section::Collateral { pccs: Some(section::Pccs { url: url.into(), address }), max_age_days: 7 };
        let rule = CollateralRule { pccs: Some(Pccs { url: url.into(), address }), max_age_days: 7 };
        assert_eq!(of(&fetched).unwrap().collateral, rule);

        let web = ServiceDstack { get_key: vec!["web/*".to_owned()], quote: ServiceQuote::AppData };
        assert_eq!((&config.outbound[0].dstack, &config.outbound[1].dstack), (&Some(web), &None));
        for (measured_as, becomes) in [
            (section::ServiceQuote::None, ServiceQuote::None),
            (section::ServiceQuote::Raw, ServiceQuote::Raw),
        ] {
            let mut may_ask = measured.section().clone();
            may_ask.services[1].dstack =
                Some(section::ServiceDstack { get_key: Vec::new(), quote: measured_as });
            let expected = ServiceDstack { get_key: Vec::new(), quote: becomes };
            assert_eq!(of(&may_ask).unwrap().outbound[1].dstack, Some(expected));
        }

        assert_eq!(config.log_readers, [], "nobody, unless the document says so");
        let mut read = measured.section().clone();
        read.logs.readers = vec![section::LogReader::App(AppId([4; 20]))];
        assert_eq!(of(&read).unwrap().log_readers, [AppId([4; 20])]);

        let refused = |change: fn(&mut Section)| {
            let mut section = measured.section().clone();
            change(&mut section);
            of(&section).unwrap_err().to_string()
        };
        let bytes = refused(|s| s.mesh.backends[1].kind = section::BackendKind::Tcp);
        assert_eq!(bytes, "not implemented in this version: casemate.mesh.backends[1].kind");
        let tag = refused(|s| s.mesh.backends[0].allow = vec![section::Caller::Tag("tag:x".to_owned())]);
        assert_eq!(tag, "not implemented in this version: casemate.mesh.backends[0].allow");
        let service = refused(|s| s.mesh.backends[0].to.service = 2);
        assert_eq!(service, "casemate.mesh.backends[0].to: no such service");
        let readers = refused(|s| s.logs.readers = vec![section::LogReader::Operators]);
        assert_eq!(readers, "not implemented in this version: casemate.logs.readers: operators");
        let verify = refused(|s| s.mesh.verify = section::Verify::CaAndQuote);
        assert_eq!(verify, "not implemented in this version: casemate.mesh.verify");
    }

    #[test]
    fn a_caller_is_judged_by_app_id() {
        assert!(Caller::Any.admits(&AppId([1; 20])));
        assert!(Caller::App(AppId([1; 20])).admits(&AppId([1; 20])));
        assert!(!Caller::App(AppId([1; 20])).admits(&AppId([2; 20])));
    }
}
