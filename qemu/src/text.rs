//! Text that somebody else wrote, for a terminal.

/// The longest text that is shown, in characters.
const MOST: usize = 200;

/// One short line: what is not printable is escaped, so that no terminal acts on it.
pub fn printable(text: &str) -> String {
    let mut shown = String::new();
    for (index, character) in text.trim().chars().enumerate() {
        if index == MOST {
            shown.push('…');
            break;
        }
        if character.is_control() || is_format(character) {
            shown.extend(character.escape_unicode());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// What changes how other characters are shown: direction overrides, invisible characters, line separators (Unicode 16, the
/// default ignorable code points and bidirectional controls that occur in plain text).
const fn is_format(character: char) -> bool {
    matches!(
        character,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}'
    )
}

/// JSON in ASCII: what is not, stands in strings, and there a code unit may be written as `\uXXXX` (RFC 8259, section 7).
pub fn ascii_json(value: &serde_json::Value) -> String {
    let mut shown = String::new();
    for character in value.to_string().chars() {
        if character.is_ascii() && character != '\u{7f}' {
            shown.push(character);
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                shown.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_told_nothing() {
        assert_eq!(printable(" plain, ünïcode \r\n"), "plain, ünïcode");
        let hostile = "a\u{1b}[2J\u{9b}1m\r\nb\u{202e}c\u{200b}\0";
        let shown = printable(hostile);
        assert_eq!(shown, r"a\u{1b}[2J\u{9b}1m\u{d}\u{a}b\u{202e}c\u{200b}\u{0}");
        let value = serde_json::json!({ "ü": "a\u{9b}\u{1f600}\u{7f}\n" });
        let text = ascii_json(&value);
        assert!(text.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
        assert!(printable(&"x".repeat(10_000)).chars().count() <= MOST + 1);
    }
}
