//! The launch registers of the simulated TEE as SMBIOS type 11 (OEM) strings, `casemate:NAME=HEX` (design section 11).
//!
//! `casemate-qemu` passes them, only the development init reads them; what is absent is zero.

use std::collections::BTreeSet;

use crate::register::{LaunchRegisters, Register};

/// The strings for `-smbios type=11,value=…`; a zero register has none.
pub fn strings(registers: &LaunchRegisters) -> Vec<String> {
    let named = [
        ("mrtd", registers.mrtd.0),
        ("rtmr0", registers.rtmr0.0),
        ("rtmr1", registers.rtmr1.0),
        ("rtmr2", registers.rtmr2.0),
        ("mrconfigid", registers.mrconfigid.0),
    ];
    named
        .into_iter()
        .filter(|(_, value)| *value != [0; 48])
        .map(|(name, value)| format!("casemate:{name}={}", hex::encode(value)))
        .collect()
}

/// Reads a raw SMBIOS type 11 structure (`/sys/firmware/dmi/entries/11-0/raw`; DMTF DSP0134 section 7.12).
/// The host wrote it: unknown strings are skipped, a register named twice or in bad form is an error text.
///
/// # Errors
/// The offending string, as text.
pub fn registers(raw: &[u8]) -> Result<LaunchRegisters, String> {
    let mut found = LaunchRegisters::ZERO;
    let mut named = BTreeSet::new();
    let header = usize::from(raw.get(1).copied().unwrap_or(0));
    let body = raw.get(header..).unwrap_or_default();
    for string in body.split(|b| *b == 0).take_while(|s| !s.is_empty()) {
        let Some(text) = std::str::from_utf8(string).ok().and_then(|s| s.strip_prefix("casemate:")) else {
            continue;
        };
        let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?}: expected NAME=HEX"))?;
        let value = Register::from_hex(value).ok_or_else(|| format!("{name}: expected 96 hex digits"))?;
        let slot = match name {
            "mrtd" => &mut found.mrtd.0,
            "rtmr0" => &mut found.rtmr0.0,
            "rtmr1" => &mut found.rtmr1.0,
            "rtmr2" => &mut found.rtmr2.0,
            "mrconfigid" => &mut found.mrconfigid.0,
            other => return Err(format!("{other:?}: no such register")),
        };
        if !named.insert(name) {
            return Err(format!("{name}: given twice"));
        }
        *slot = value.0;
    }
    Ok(found)
}
