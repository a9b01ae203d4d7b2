//! JSON that a terminal can show: what workloads wrote is in it.

use std::io;

use bytes::Bytes;
use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::Formatter;

/// In ASCII: serde escapes what JSON demands (the C0 controls), this everything else that is not plain, so that no shown
/// answer moves a cursor or reorders text.
pub(crate) fn plain(value: &impl Serialize) -> serde_json::Result<Bytes> {
    let mut bytes = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut bytes, Ascii))?;
    bytes.push(b'\n');
    Ok(bytes.into())
}

struct Ascii;

impl Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut units = [0; 2];
        for c in fragment.chars() {
            if matches!(c, ' '..='~') {
                write!(writer, "{c}")?;
                continue;
            }
            for unit in c.encode_utf16(&mut units) {
                write!(writer, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_but_plain_ascii_is_escaped_and_comes_back() {
        let text = "a\"\\\u{1b}[2J\u{7f}\u{9b}\u{202e}é\u{1f600}\u{fffd}\n";
        let bytes = plain(&text).unwrap();
        assert_eq!(serde_json::from_slice::<String>(&bytes).unwrap(), text);
        let shown = std::str::from_utf8(&bytes).unwrap().trim_end();
        assert_eq!(shown, r#""a\"\\\u001b[2J\u007f\u009b\u202e\u00e9\ud83d\ude00\ufffd\n""#);
    }
}
