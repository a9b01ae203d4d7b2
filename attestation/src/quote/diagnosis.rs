//! What kind of reason a refusal of `dcap-qvl` is. Labels only: that crate gives its reasons as text, the refusal stands
//! whatever they say, and a test holds each label to what was done to a real quote.

use crate::error::Class;

/// Parts of its texts, in the order in which they are looked for.
const TEXTS: &[(&str, Class)] = &[
    ("CertRevoked", Class::Revocation),
    ("TCB status is invalid: Revoked", Class::Revocation),
    ("CertNotValidYet", Class::Validity),
    ("CertExpired", Class::Validity),
    ("TCBInfo", Class::Collateral),
    ("TcbInfo", Class::Collateral),
    ("TCB Info", Class::Collateral),
    ("TCB info", Class::Collateral),
    ("tcb_info", Class::Collateral),
    ("qe_identity", Class::Collateral),
    ("QeIdentity", Class::Collateral),
    ("QEIdentity", Class::Collateral),
    ("QE Identity", Class::Collateral),
    ("CRL", Class::Collateral),
    ("Crl", Class::Collateral),
    ("UnknownRevocationStatus", Class::Collateral),
    ("Fmspc mismatch", Class::Collateral),
    ("ebug", Class::Attributes),
    ("profiling", Class::Attributes),
    ("Reserved bits", Class::Attributes),
    ("migration", Class::Attributes),
    ("SERVTD_EXT", Class::Attributes),
    ("SEPT_VE_DISABLE", Class::Attributes),
    ("service TD", Class::Attributes),
    ("TDX module", Class::Module),
    ("No matching TCB level", Class::Tcb),
    ("ISVSVN", Class::Tcb),
    ("Failed to decode quote", Class::Form),
    ("Failed to extract PCK certificates from quote", Class::Form),
    ("Unsupported DCAP quote version", Class::Form),
    ("attestation key type", Class::Form),
];

/// Whether a text says that a chain is bad and not which: the quote's own or one of the collateral's.
pub(crate) fn is_of_some_chain(text: &str) -> bool {
    class(text) == Class::Signature
        && (text.starts_with("Failed to verify certificate chain")
            || text.starts_with("Failed to parse certs"))
}

/// What is said of a quote without a chain, after everything of the collateral held.
pub(crate) const NO_CHAIN: &str = "Certificate chain is too short in quote";

/// The class of a refusal by its text; what is not known is the signature's.
pub(crate) fn class(text: &str) -> Class {
    TEXTS.iter().find(|(part, _)| text.contains(part)).map_or(Class::Signature, |(_, class)| *class)
}
