//! Which byte of an item is what: tables computed from the formats, each region with its right classes.

use casemate_verify::Class;

use crate::flips::{Pass, Region};

use Class::{Form, NotImplemented, Root, Signature, Validity};

/// Regions one after the other.
pub(crate) struct Layout<'a> {
    item: &'a [u8],
    pub(crate) regions: Vec<Region>,
    at: usize,
}

impl<'a> Layout<'a> {
    pub(crate) const fn new(item: &'a [u8]) -> Self {
        Self { item, regions: Vec::new(), at: 0 }
    }

    pub(crate) const fn at(&self) -> usize {
        self.at
    }

    /// The next `len` bytes.
    pub(crate) fn part(&mut self, name: &str, len: usize, classes: &[Class], pass: Pass) {
        let bytes = self.at..self.at + len;
        self.at = bytes.end;
        self.regions.push(Region { name: name.into(), bytes, classes: classes.to_vec(), pass });
    }

    /// Everything up to that index.
    pub(crate) fn to(&mut self, end: usize, name: &str, classes: &[Class], pass: Pass) {
        self.part(name, end - self.at, classes, pass);
    }

    pub(crate) fn rest(mut self, name: &str, classes: &[Class], pass: Pass) -> Vec<Region> {
        self.to(self.item.len(), name, classes, pass);
        self.regions
    }

    fn u16(&self) -> usize {
        usize::from(u16::from_le_bytes(self.item[self.at..self.at + 2].try_into().unwrap()))
    }

    fn u32(&self) -> usize {
        usize::try_from(u32::from_le_bytes(self.item[self.at..self.at + 4].try_into().unwrap())).unwrap()
    }

    /// A quote at this place (Intel TDX DCAP Quoting Library API, appendix A.3; version 5: A.4), without what follows it.
    /// `report_data`: where it must be the certificate's key's, its class comes first.
    pub(crate) fn quote(&mut self, report_data: &[Class]) {
        let version = self.u16();
        self.part("version", 2, &[Form], Pass::Never);
        self.part("attestation key type", 2, &[Form], Pass::Never);
        self.part("TEE type", 4, &[Form], Pass::Never);
        self.part("QE and PCE versions", 4, &[Signature], Pass::Never);
        self.part("QE vendor", 16, &[Signature], Pass::Never);
        self.part("user data", 20, &[Signature], Pass::Never);
        let mut beyond = 0;
        if version == 5 {
            self.part("body type", 2, &[Form, Signature], Pass::Never);
            beyond = self.u32() - 584;
            self.part("body size", 4, &[Form], Pass::Never);
        }
        self.part("TD report", 520, &[Signature], Pass::Never);
        self.part("report data", 64, report_data, Pass::Never);
        self.part("TD report, version 1.5", beyond, &[Signature], Pass::Never);
        self.part("length of signature data", 4, &[Form], Pass::Never);
        self.part("signature", 64, &[Signature], Pass::Never);
        self.part("attestation key", 64, &[Signature], Pass::Never);
        self.part("certification data type", 2, &[Form], Pass::Never);
        self.part("length of certification data", 4, &[Form], Pass::Never);
        self.part("QE report", 384, &[Signature], Pass::Never);
        self.part("signature of the QE report", 64, &[Signature], Pass::Never);
        let authentication = self.u16();
        // What follows is then found elsewhere, where a type stands that is not there, or nothing.
        self.part("length of authentication data", 2, &[Form, NotImplemented], Pass::Never);
        self.part("authentication data", authentication, &[Signature], Pass::Never);
        self.part("PCK certification data type", 2, &[NotImplemented], Pass::Never);
        let chain = self.u32();
        self.part("length of the PCK chain", 4, &[Form], Pass::Never);
        let end = self.at + chain;
        self.chain(
            end,
            &[&[Form, Signature, Validity], &[Form, Signature, Validity], &[Form, Root]],
            &[Form, Signature, Root],
        );
    }

    /// A PEM chain (RFC 7468) up to that index: for each certificate the classes of its base64. Frame and line breaks can
    /// change without changing a certificate; what stands behind the last line is nothing's.
    fn chain(&mut self, end: usize, certificates: &[&[Class]], frame: &[Class]) {
        let mut certificate = 0;
        while self.at < end {
            let rest = &self.item[self.at..end];
            let line = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| at + 1);
            let text = rest[..line].trim_ascii_end();
            if text.starts_with(b"-----") || text.iter().all(|byte| *byte == 0) {
                certificate += usize::from(text.starts_with(b"-----END"));
                self.part("PEM frame", line, frame, Pass::Unread);
            } else {
                self.part("PEM", text.len(), certificates[certificate], Pass::Never);
                self.part("line break", line - text.len(), frame, Pass::Unread);
            }
        }
    }
}

/// A whole quote, with zeros behind it if there are some.
pub(crate) fn quote(item: &[u8]) -> Vec<Region> {
    let mut layout = Layout::new(item);
    layout.quote(&[Signature]);
    layout.rest("padding", &[Form], Pass::Never)
}

/// Where those bytes stand, once.
pub(crate) fn find(item: &[u8], part: &[u8]) -> usize {
    let mut found = item.windows(part.len()).enumerate().filter(|(_, window)| *window == part);
    let (at, _) = found.next().unwrap_or_else(|| panic!("no {}", String::from_utf8_lossy(part)));
    assert!(found.next().is_none(), "{} is there twice", String::from_utf8_lossy(part));
    at
}
