//! JSON paths as errors write them: `casemate.mesh.backends[0].listen`.

/// The longest piece of a document that an error repeats, in characters.
const SHOWN: usize = 80;

/// The path of a key of the object at `parent`. A key that is no plain word stands in brackets and quotes.
pub fn key(parent: &str, key: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'/' | b'*');
    match (key.len() <= SHOWN && !key.is_empty() && key.bytes().all(plain), parent.is_empty()) {
        (true, true) => key.to_owned(),
        (true, false) => format!("{parent}.{key}"),
        (false, _) => format!("{parent}[{}]", quoted(key)),
    }
}

/// The path of an item of the list at `parent`.
pub fn index(parent: &str, index: usize) -> String {
    format!("{parent}[{index}]")
}

/// Text of the document in quotes: escaped, and cut if it is long.
pub fn quoted(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}… ({} bytes)", text.get(..end).unwrap_or_default(), text.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_readable_and_cannot_carry_control_characters() {
        assert_eq!(key("", "a"), "a");
        assert_eq!(key("a", "b-c"), "a.b-c");
        assert_eq!(key(&index("a.b", 3), ""), "a.b[3][\"\"]");
        assert_eq!(key("a", "x.y"), "a[\"x.y\"]");
        assert_eq!(key("a", "\u{1b}[2J\u{202e}"), "a[\"\\u{1b}[2J\\u{202e}\"]");
        assert_eq!(quoted(&"é".repeat(81)), format!("\"{}\"… (162 bytes)", "é".repeat(80)));
    }
}
