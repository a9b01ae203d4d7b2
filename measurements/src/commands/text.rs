//! Lines for a terminal of 80 columns. A log is somebody else's text: what is not printable ASCII is escaped.

use casemate_measure::Register;

/// Columns.
const WIDTH: usize = 80;
/// Hex digits of a register in one line: half of them.
const HALF: usize = 48;
/// Hex digits of a digest that is shown in short.
const SHORT: usize = 16;

/// At most so many columns.
pub(super) fn cell(text: &str, columns: usize) -> String {
    let escaped: String =
        text.chars().take(columns.saturating_add(1)).flat_map(char::escape_default).collect();
    // One escape can be longer than its character: so only now is it known what fits. Escaped text is ASCII.
    let escaped = escaped.replace("\\'", "'").replace("\\\"", "\"");
    if escaped.len() <= columns {
        return escaped;
    }
    let kept = escaped.get(..columns.saturating_sub(1)).unwrap_or_default();
    format!("{kept}…")
}

/// The beginning of a digest.
pub(super) fn short(digest: &Register) -> String {
    let digits = digest.to_string();
    format!("{}…", digits.get(..SHORT).unwrap_or_default())
}

/// A register in two lines, the first behind a label, and both in one column.
pub(super) fn register(label: &str, register: Option<&Register>) -> String {
    let Some(register) = register else { return format!("{label}(unknown)\n") };
    let digits = register.to_string();
    let (first, second) = digits.split_at_checked(HALF).unwrap_or((&digits, ""));
    format!("{label}{first}\n{:indent$}{second}\n", "", indent = label.len())
}

/// Text behind a label, in as many lines as it takes; words that are too long are cut.
pub(super) fn wrapped(label: &str, text: &str) -> String {
    let columns = WIDTH.saturating_sub(label.len());
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut rest: String = word.chars().flat_map(char::escape_default).collect();
        rest = rest.replace("\\'", "'").replace("\\\"", "\"");
        while let Some(line) = lines.last_mut() {
            let space = usize::from(!line.is_empty());
            let left = columns.saturating_sub(line.len()).saturating_sub(space);
            if rest.len() <= left || left == columns {
                let at = rest.len().min(left);
                line.push_str(if space == 1 { " " } else { "" });
                line.push_str(rest.get(..at).unwrap_or_default());
                rest = rest.get(at..).unwrap_or_default().to_owned();
                if rest.is_empty() {
                    break;
                }
            }
            lines.push(String::new());
        }
    }
    let indent = format!("\n{:width$}", "", width = label.len());
    format!("{label}{}\n", lines.join(&indent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_log_reaches_the_terminal_as_it_is() {
        assert_eq!(cell("\u{1b}[2Jx\u{202e}", 80), "\\u{1b}[2Jx\\u{202e}");
        assert_eq!(cell("it's \"é\"", 80), "it's \"\\u{e9}\"");
        assert_eq!(cell(&"x".repeat(100), 10), format!("{}…", "x".repeat(9)));
        assert_eq!(cell(&"\u{1b}".repeat(100), 10).chars().count(), 10);
        assert_eq!(wrapped("> ", "a\u{7}b\nc"), "> a\\u{7}b c\n");
    }

    #[test]
    fn lines_have_eighty_columns_at_most() {
        let text = format!("{} {} and the rest of it in some words", "a".repeat(200), "b ".repeat(90));
        let lines = wrapped("    origin   ", &text);
        assert!(lines.lines().count() > 4);
        assert!(lines.lines().all(|line| line.len() <= WIDTH), "{lines}");
        assert_eq!(lines.matches('a').count(), 201);
        assert_eq!(wrapped("x ", ""), "x \n");
    }
}
