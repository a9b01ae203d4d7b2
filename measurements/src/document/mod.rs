//! The measured document, `app-compose.json`: strict reading, then checked types.
//!
//! One pass each: JSON (`json`), dstack's own fields (`dstack`), the shape of the section by the table of keys
//! (`shape`, `keys`), checked types and what ties them together (`parts`), and at last what this version carries
//! out (`carried_out`).

mod carried_out;
mod dstack;
mod error;
mod forms;
pub mod json;
mod keys;
mod node;
mod parts;
pub mod path;
pub mod reference;
mod shape;

use ipnet::IpNet;

pub use error::{DocumentError, Problem};
pub use json::{MAX_BYTES, MAX_DEPTH};

use crate::identity::{AppId, ComposeHash, KeyProvider};
use crate::section::Section;
use json::Value;
use node::Node;

/// Whose column of the table of dstack's fields judges the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// Our own image.
    Appliance,
    /// A container under stock dstack.
    Container,
}

/// A document that passed every check; nothing but [`MeasuredConfig::parse`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeasuredConfig {
    compose_hash: ComposeHash,
    name: String,
    key_provider: KeyProvider,
    secure_time: bool,
    section: Section,
    warnings: Vec<Warning>,
}

/// What is accepted, and should be known all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Warning {
    /// `vpn.prefixes` reaches outside the address space set aside for it.
    #[error(
        "casemate.vpn.prefixes: {0} is public address space; hosts there cannot be reached while it is the private network's"
    )]
    PublicAddressSpace(IpNet),
    /// `vpn.login_server.authkey` is in the document itself.
    #[error("casemate.vpn.login_server.authkey: whoever can read the document can join with this key")]
    OpenAuthKey,
    /// `server.ephemeral` is set.
    #[error("casemate.server.ephemeral: every key and registration of this server dies with the machine")]
    EphemeralServer,
}

impl MeasuredConfig {
    /// Reads and checks a document. `file` is only named in errors.
    ///
    /// # Errors
    /// The first thing that is wrong: file, path, expectation, finding.
    pub fn parse(file: &str, document: &[u8], platform: Platform) -> Result<Self, DocumentError> {
        let compose_hash = ComposeHash::of(document);
        let refuse = |problem| DocumentError { file: file.to_owned(), problem };
        read(compose_hash, document, platform).map_err(refuse)
    }

    /// SHA-256 of the document's bytes.
    pub const fn compose_hash(&self) -> ComposeHash {
        self.compose_hash
    }

    /// The app id without a KMS.
    pub fn app_id(&self) -> AppId {
        self.compose_hash.app_id()
    }

    /// dstack's `name`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where keys come from.
    pub const fn key_provider(&self) -> &KeyProvider {
        &self.key_provider
    }

    /// dstack's `secure_time`: whether nothing may run before an authenticated time was obtained. Only with servers in
    /// `casemate.time.nts`; in a container dstack's own guest carries it out, and this is false.
    pub const fn secure_time(&self) -> bool {
        self.secure_time
    }

    /// The `casemate` section.
    pub const fn section(&self) -> &Section {
        &self.section
    }

    /// What was accepted, and should be shown to whoever wrote the document.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }
}

fn read(compose_hash: ComposeHash, document: &[u8], platform: Platform) -> Result<MeasuredConfig, Problem> {
    let value = Value::read(document)?;
    let Value::Object(top) = &value else {
        return Err(Problem::invalid("(top level)", "an object", value.describe()));
    };
    let fields = dstack::read(top, platform)?;
    let Some(section) = top.get(shape::SECTION) else {
        return Err(Problem::invalid(shape::SECTION, "an object", "nothing"));
    };
    let complete = shape::complete(section)?;
    let section = parts::section(&Node::section(&complete), &fields, platform)?;
    let secure_time = dstack::secure_time(top, platform, !section.time.nts.is_empty())?;
    dstack::carried_out(top, platform)?;
    carried_out::check(&complete)?;
    Ok(MeasuredConfig {
        compose_hash,
        name: fields.name,
        key_provider: fields.key_provider,
        secure_time,
        warnings: parts::warnings(&section),
        section,
    })
}
