//! Reading files of QEMU's fw_cfg device through its DMA interface (QEMU `docs/specs/fw_cfg.rst`).

/// The selector of the file directory (`FW_CFG_FILE_DIR`).
pub(crate) const DIRECTORY: u16 = 0x19;
/// One entry of it: size and selector, big-endian, two reserved bytes, and a name padded with NUL.
const ENTRY: usize = 64;
const NAME: usize = 56;
/// More files than QEMU has selectors for: 0x4000 less the first file's 0x20 (`FW_CFG_FILE_SLOTS_MIN`, `FW_CFG_ENTRY_MASK`).
const MAX_FILES: u32 = 0x4000 - 0x20;
/// What is read of a file at most, bytes. QEMU reserves 2 MiB for ACPI tables (`ACPI_BUILD_TABLE_MAX_SIZE`), and the least
/// machine has 128 MiB.
const MAX_BLOB: u32 = 16 << 20;
/// Read, and select the key in the upper half first.
const CONTROL_SELECT_READ: u32 = 8 | 2;
/// The port of the DMA address's lower half, big-endian; writing it starts the transfer.
const PORT_DMA_LOW: u16 = 0x518;

/// A file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) selector: u16,
    pub(crate) length: u32,
}

/// What is wrong with an answer of fw_cfg.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("fw_cfg: {what}: expected {expected}, found {found}")]
pub struct ItemError {
    what: String,
    expected: String,
    found: String,
}

impl ItemError {
    fn new(what: &str, expected: impl Into<String>, found: impl ToString) -> Self {
        Self { what: what.into(), expected: expected.into(), found: found.to_string() }
    }
}

/// The three files that the firmware measures, in that order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blobs {
    /// `etc/table-loader`: where the firmware puts tables, and what it patches in them.
    pub loader: Vec<u8>,
    /// `etc/acpi/rsdp`.
    pub rsdp: Vec<u8>,
    /// `etc/acpi/tables`.
    pub tables: Vec<u8>,
}

impl Blobs {
    /// The files' names, in the order of the fields.
    pub const NAMES: [&str; 3] = ["etc/table-loader", "etc/acpi/rsdp", "etc/acpi/tables"];

    /// Signatures of the tables, in the order in which they lie there, each right behind the other.
    pub fn signatures(&self) -> Vec<String> {
        let mut rest = self.tables.as_slice();
        let mut signatures = Vec::new();
        // A header starts with four letters and the length of the whole table (ACPI 6.5, section 5.2.6; FACS 5.2.10).
        while let Some((head, _)) = rest.split_first_chunk::<8>() {
            let [a, b, c, d, length @ ..] = *head;
            let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
            let signature = [a, b, c, d];
            let Some(behind) = rest.get(length.max(8)..) else { break };
            if !signature.iter().all(u8::is_ascii_alphanumeric) {
                break;
            }
            signatures.push(signature.map(char::from).iter().collect());
            rest = behind;
        }
        signatures
    }

    /// These are what the firmware sees after it has enumerated the PCI bus.
    ///
    /// # Errors
    /// If there is no MCFG table: QEMU makes it only once the firmware has set where the PCI configuration space lies
    /// (QEMU `hw/i386/acpi-build.c`, `acpi_get_mcfg`), and firmware that never ran has not.
    pub fn check(&self) -> Result<(), ItemError> {
        let signatures = self.signatures();
        if signatures.iter().any(|signature| signature == "MCFG") {
            return Ok(());
        }
        let [_, _, tables] = Self::NAMES;
        Err(ItemError::new(
            tables,
            "a table MCFG, which is there once the firmware has enumerated the PCI bus",
            format!("{signatures:?}"),
        ))
    }
}

/// The structure that asks for a file's bytes at an address (`FWCfgDmaAccess`).
pub(crate) fn request(item: Item, address: u32) -> [u8; 16] {
    let control = u32::from(item.selector) << 16 | CONTROL_SELECT_READ;
    let mut bytes = [0; 16];
    let fields = [control.to_be_bytes(), item.length.to_be_bytes(), [0; 4], address.to_be_bytes()]
        .into_iter()
        .flatten();
    bytes.iter_mut().zip(fields).for_each(|(byte, field)| *byte = field);
    bytes
}

/// Port and value that start the transfer of the request at that address.
pub(crate) const fn trigger(request: u32) -> (u16, u32) {
    (PORT_DMA_LOW, request.swap_bytes())
}

/// How long the directory is, from its first four bytes.
///
/// # Errors
/// If there are more files than there can be.
pub(crate) fn directory_length(count: &[u8]) -> Result<u32, ItemError> {
    let count = count.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
    match count {
        Some(count) if count <= MAX_FILES => Ok(4 + 64 * count),
        _ => {
            Err(ItemError::new("file directory", format!("at most {MAX_FILES} files"), format!("{count:?}")))
        }
    }
}

/// Finds a file in the directory.
///
/// # Errors
/// If it is not there, empty, or too large.
pub(crate) fn find(directory: &[u8], name: &str) -> Result<Item, ItemError> {
    let entries = directory.get(4..).unwrap_or_default().chunks_exact(ENTRY);
    let mut items = entries.filter_map(|entry| {
        let ([a, b, c, d, selector @ ..], rest) = entry.split_first_chunk::<6>()?;
        let (_, padded) = rest.split_at_checked(ENTRY - NAME - 6)?;
        let length = padded.iter().position(|byte| *byte == 0).unwrap_or(NAME);
        (padded.get(..length)? == name.as_bytes()).then(|| Item {
            selector: u16::from_be_bytes(*selector),
            length: u32::from_be_bytes([*a, *b, *c, *d]),
        })
    });
    match items.next() {
        Some(item) if (1..=MAX_BLOB).contains(&item.length) => Ok(item),
        Some(item) => Err(ItemError::new(name, format!("1 to {MAX_BLOB} bytes"), item.length)),
        None => Err(ItemError::new(name, "a file", "none of that name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(files: &[(&str, u32, u16)]) -> Vec<u8> {
        let mut bytes = u32::try_from(files.len()).unwrap().to_be_bytes().to_vec();
        for (name, length, selector) in files {
            bytes.extend(length.to_be_bytes());
            bytes.extend(selector.to_be_bytes());
            bytes.extend([0; 2]);
            let mut padded = name.as_bytes().to_vec();
            padded.resize(NAME, 0);
            bytes.extend(padded);
        }
        bytes
    }

    #[test]
    fn files_are_found_by_their_whole_name() {
        let full = "x".repeat(NAME);
        let bytes =
            directory(&[("etc/acpi/tables.old", 1, 2), ("etc/acpi/tables", 131_072, 0x2b), (&full, 3, 4)]);
        assert_eq!(directory_length(&bytes), Ok(4 + 3 * 64));
        assert_eq!(find(&bytes, "etc/acpi/tables"), Ok(Item { selector: 0x2b, length: 131_072 }));
        assert_eq!(find(&bytes, &full), Ok(Item { selector: 4, length: 3 }));
        for name in ["etc/acpi/table", "etc/acpi", ""] {
            assert!(find(&bytes, name).unwrap_err().to_string().contains("none of that name"), "{name}");
        }
    }

    #[test]
    fn absurd_directories_are_refused() {
        for (count, found) in [(&[0xff; 4][..], "Some(4294967295)"), (&[0; 3], "None")] {
            assert!(directory_length(count).unwrap_err().to_string().contains(found));
        }
        for length in [0, MAX_BLOB + 1, u32::MAX] {
            let error = find(&directory(&[("etc/acpi/rsdp", length, 1)]), "etc/acpi/rsdp").unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("fw_cfg: etc/acpi/rsdp: expected 1 to 16777216 bytes, found {length}")
            );
        }
        let whole = directory(&[("etc/acpi/rsdp", 20, 1)]);
        for cut in 0..whole.len() {
            assert!(find(&whole[..cut], "etc/acpi/rsdp").is_err(), "{cut}");
        }
    }

    #[test]
    fn a_request_is_big_endian() {
        let bytes = request(Item { selector: 0x2b, length: 0x2_0000 }, 0x20_0000);
        assert_eq!(hex::encode(bytes), "002b000a000200000000000000200000");
        assert_eq!(trigger(0x10_0000), (0x518, 0x0000_1000));
    }

    fn table(signature: &[u8; 4], length: usize) -> Vec<u8> {
        let mut bytes = signature.to_vec();
        bytes.extend(u32::try_from(length).unwrap().to_le_bytes());
        bytes.resize(length, 0x5a);
        bytes
    }

    #[test]
    fn tables_of_firmware_that_never_ran_are_refused() {
        let before = [table(b"FACS", 64), table(b"DSDT", 300), table(b"RSDT", 48), vec![0; 100]].concat();
        let blobs = Blobs { loader: vec![1], rsdp: vec![1], tables: before.clone() };
        assert_eq!(blobs.signatures(), ["FACS", "DSDT", "RSDT"]);
        let error = blobs.check().unwrap_err().to_string();
        assert!(error.starts_with("fw_cfg: etc/acpi/tables: expected a table MCFG"), "{error}");
        let after = [table(b"MCFG", 60), before].concat();
        assert_eq!(Blobs { tables: after, ..blobs }.check(), Ok(()));
    }

    #[test]
    fn tables_that_lie_about_their_length_end_the_list() {
        let mut lie = table(b"MCFG", 60);
        for (length, expected) in [(u32::MAX, 0), (61, 0), (60, 1), (0, 1)] {
            lie[4..8].copy_from_slice(&length.to_le_bytes());
            let blobs = Blobs { loader: vec![], rsdp: vec![], tables: lie.clone() };
            assert_eq!(blobs.signatures().len(), expected, "{length}");
        }
    }
}
