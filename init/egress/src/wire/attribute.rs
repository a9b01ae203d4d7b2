//! Netlink attributes: length, type, value, padding to four bytes (netlink(7); linux/netlink.h `struct nlattr`).

use thiserror::Error;

/// Type bits that say how a value is stored (`NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`), not what it is.
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;
const HEADER: usize = 4;

/// Bytes that are not what we would have written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// A value does not fit in the 16-bit length of an attribute.
    #[error("{0} is longer than a netlink attribute can be (65531 bytes)")]
    TooLong(&'static str),
    /// The bytes end inside an attribute or header.
    #[error("{what}: expected {expected} bytes, found {found}")]
    Truncated {
        /// Inside what.
        what: &'static str,
        /// How many bytes should be there.
        expected: usize,
        /// How many are.
        found: usize,
    },
    /// An attribute that must be there is not.
    #[error("{object}: attribute {attribute} is missing")]
    Missing {
        /// In which object.
        object: &'static str,
        /// The attribute's name in linux/netfilter/nf_tables.h.
        attribute: &'static str,
    },
    /// A number outside the subset that we write.
    #[error("{what}: unexpected value {found:#x}")]
    Value {
        /// Of what.
        what: &'static str,
        /// The value.
        found: u64,
    },
    /// A string that is no name.
    #[error("{what}: not a NUL-terminated ASCII name")]
    Name {
        /// Of what.
        what: &'static str,
    },
    /// An expression outside the subset that we write.
    #[error("expression {0:?} is none of ours")]
    UnknownExpression(String),
    /// An attribute of an expression outside the subset that we write.
    #[error("expression {object:?} has attribute {attribute}, which we never write")]
    UnknownAttribute {
        /// The expression's name.
        object: &'static str,
        /// The attribute's number.
        attribute: u16,
    },
}

/// Builds a run of attributes.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
    too_long: Option<&'static str>,
}

impl Writer {
    pub(crate) fn bytes(&mut self, kind: u16, what: &'static str, value: &[u8]) -> &mut Self {
        self.attribute(kind, what, value)
    }

    /// A 32-bit number in network order, as nf_tables wants all of its own.
    pub(crate) fn u32(&mut self, kind: u16, what: &'static str, value: u32) -> &mut Self {
        self.attribute(kind, what, &value.to_be_bytes())
    }

    /// A NUL-terminated name.
    pub(crate) fn name(&mut self, kind: u16, what: &'static str, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, what, &bytes)
    }

    /// Attributes inside an attribute.
    pub(crate) fn nest(&mut self, kind: u16, what: &'static str, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let mut inner = Self::default();
        fill(&mut inner);
        self.too_long = self.too_long.or(inner.too_long);
        self.attribute(kind | NESTED, what, &inner.bytes)
    }

    pub(crate) fn finish(self) -> Result<Vec<u8>, WireError> {
        match self.too_long {
            Some(what) => Err(WireError::TooLong(what)),
            None => Ok(self.bytes),
        }
    }

    fn attribute(&mut self, kind: u16, what: &'static str, value: &[u8]) -> &mut Self {
        let Ok(length) = u16::try_from(value.len() + HEADER) else {
            self.too_long = Some(what);
            return self;
        };
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }
}

/// One run of attributes, taken apart; of an attribute given twice the first counts, as nothing of ours repeats except lists.
#[derive(Debug)]
pub(crate) struct Attributes<'a> {
    object: &'static str,
    items: Vec<(u16, &'a [u8])>,
}

impl<'a> Attributes<'a> {
    pub(crate) fn parse(object: &'static str, mut bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut items = Vec::new();
        while !bytes.is_empty() {
            let truncated = |expected| WireError::Truncated { what: object, expected, found: bytes.len() };
            let (&header, _) = bytes.split_first_chunk::<HEADER>().ok_or_else(|| truncated(HEADER))?;
            let [l0, l1, k0, k1] = header;
            let length = usize::from(u16::from_ne_bytes([l0, l1]));
            let value = bytes.get(HEADER..length).ok_or_else(|| truncated(length.max(HEADER)))?;
            items.push((u16::from_ne_bytes([k0, k1]) & TYPE_MASK, value));
            // The kernel does not pad the last attribute of every message.
            bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(Self { object, items })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u16, &'a [u8])> {
        self.items.iter().copied()
    }

    /// Fails if there is an attribute besides `known`: what we do not understand could change the meaning.
    pub(crate) fn only(&self, known: &[u16]) -> Result<(), WireError> {
        match self.items.iter().find(|(kind, _)| !known.contains(kind)) {
            Some(&(attribute, _)) => Err(WireError::UnknownAttribute { object: self.object, attribute }),
            None => Ok(()),
        }
    }

    pub(crate) fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.items.iter().find(|(k, _)| *k == kind).map(|(_, value)| *value)
    }

    pub(crate) fn required(&self, kind: u16, attribute: &'static str) -> Result<&'a [u8], WireError> {
        self.get(kind).ok_or(WireError::Missing { object: self.object, attribute })
    }

    pub(crate) fn u32(&self, kind: u16, attribute: &'static str) -> Result<u32, WireError> {
        fixed(attribute, self.required(kind, attribute)?).map(u32::from_be_bytes)
    }

    pub(crate) fn optional_u32(&self, kind: u16, attribute: &'static str) -> Result<Option<u32>, WireError> {
        self.get(kind).map(|value| fixed(attribute, value).map(u32::from_be_bytes)).transpose()
    }

    pub(crate) fn u64(&self, kind: u16, attribute: &'static str) -> Result<u64, WireError> {
        fixed(attribute, self.required(kind, attribute)?).map(u64::from_be_bytes)
    }

    pub(crate) fn name(&self, kind: u16, attribute: &'static str) -> Result<String, WireError> {
        text(attribute, self.required(kind, attribute)?)
    }

    pub(crate) fn nested(&self, kind: u16, attribute: &'static str) -> Result<Self, WireError> {
        Attributes::parse(attribute, self.required(kind, attribute)?)
    }
}

/// Exactly `N` bytes.
pub(crate) fn fixed<const N: usize>(what: &'static str, bytes: &[u8]) -> Result<[u8; N], WireError> {
    bytes.try_into().map_err(|_| WireError::Truncated { what, expected: N, found: bytes.len() })
}

/// A NUL-terminated name of printable ASCII.
pub(crate) fn text(what: &'static str, bytes: &[u8]) -> Result<String, WireError> {
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    if bytes.iter().all(u8::is_ascii_graphic) {
        Ok(bytes.iter().map(|&b| char::from(b)).collect())
    } else {
        Err(WireError::Name { what })
    }
}
