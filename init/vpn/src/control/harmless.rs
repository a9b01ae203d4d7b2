//! What a server says, before anybody else sees it.

/// The longest text that is kept.
const MAX_TEXT: usize = 200;
/// What stands where a text had a key.
const REDACTED: &str = "[a key]";
/// From this many hex digits on a word is taken for a key (Headscale 0.26's have 48).
const KEY_DIGITS: usize = 32;

/// A server's text without control characters, cut, and without anything that looks like a secret.
pub(crate) fn harmless(text: &str) -> String {
    let words: Vec<&str> = text
        .split_whitespace()
        .take(MAX_TEXT)
        .map(|word| if looks_like_key(word) { REDACTED } else { word })
        .collect();
    words.join(" ").chars().take(MAX_TEXT).flat_map(char::escape_debug).collect()
}

fn looks_like_key(word: &str) -> bool {
    if is_public(word) {
        return false;
    }
    let longest = word.split(|c: char| !c.is_ascii_hexdigit()).map(str::len).max().unwrap_or_default();
    word.contains("hskey") || word.contains("privkey:") || longest >= KEY_DIGITS
}

/// Whether a word is a public key of ours or another's, which logs may show: as such it is written, and nothing else is in it.
fn is_public(word: &str) -> bool {
    let word = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    let digits = ["nodekey:", "mkey:", "discokey:"].iter().find_map(|kind| word.strip_prefix(kind));
    digits.is_some_and(|digits| digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_keys_may_be_shown_and_nothing_that_resembles_them() {
        let digits = "0123456789abcdef".repeat(4);
        for kind in ["nodekey", "mkey", "discokey"] {
            let text = format!("the key {kind}:{digits}, which is another's");
            assert_eq!(harmless(&text), text.escape_debug().to_string());
        }
        for secret in [
            format!("privkey:{digits}"),
            format!("nodekey:{digits}00"),
            format!("nodekey:{digits}/hskey-auth-x"),
            digits.clone(),
            digits[..48].to_owned(),
        ] {
            assert_eq!(harmless(&format!("the key {secret}")), "the key [a key]");
        }
    }
}
