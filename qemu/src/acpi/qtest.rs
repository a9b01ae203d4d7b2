//! qtest, the protocol of QEMU's own tests (QEMU `system/qtest.c`): a command a line, an answer a line. It reaches ports and
//! memory of a machine that stands still.

/// Writes four bytes to an I/O port.
pub(crate) fn outl(port: u16, value: u32) -> String {
    format!("outl {port:#x} {value:#x}\n")
}

/// Writes bytes to the machine's memory.
pub(crate) fn write(address: u32, bytes: &[u8]) -> String {
    format!("write {address:#x} {:#x} 0x{}\n", bytes.len(), hex::encode(bytes))
}

/// Reads bytes from the machine's memory.
pub(crate) fn read(address: u32, length: u32) -> String {
    format!("read {address:#x} {length:#x}\n")
}

/// The bytes of an answer to [`read`]; of an answer to anything else, none.
///
/// # Errors
/// In words, if it is not `OK`, or not so many bytes.
pub(crate) fn read_answer(line: &[u8], length: u32) -> Result<Vec<u8>, String> {
    let said = || String::from_utf8_lossy(line).trim_end().chars().take(80).collect::<String>();
    let rest = line.strip_prefix(b"OK").ok_or_else(|| format!("qtest: expected OK, found {:?}", said()))?;
    let digits = rest.trim_ascii();
    let digits = digits.strip_prefix(b"0x").unwrap_or(digits);
    let bytes = hex::decode(digits).map_err(|error| format!("qtest: {:?}: {error}", said()))?;
    if u32::try_from(bytes.len()) != Ok(length) {
        return Err(format!("qtest: expected {length} bytes, found {}", bytes.len()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_lines() {
        assert_eq!(outl(0x518, 0x1000), "outl 0x518 0x1000\n");
        assert_eq!(write(0x10_0000, &[1, 0xab]), "write 0x100000 0x2 0x01ab\n");
        assert_eq!(read(0x20_0000, 64), "read 0x200000 0x40\n");
    }

    #[test]
    fn answers_are_read_and_everything_else_is_refused() {
        assert_eq!(read_answer(b"OK 0x01ab\n", 2), Ok(vec![1, 0xab]));
        assert_eq!(read_answer(b"OK\n", 0), Ok(vec![]));
        for (bad, why) in [
            (&b"FAIL Unknown command\n"[..], "expected OK"),
            (b"OK 0x01\n", "expected 2 bytes, found 1"),
            (b"OK 0x01abcd\n", "expected 2 bytes, found 3"),
            (b"OK 0x01a\n", "Odd number"),
            (b"OK 0x01ag\n", "Invalid character"),
            (b"OK\n", "found 0"),
            (b"", "expected OK"),
        ] {
            let error = read_answer(bad, 2).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
