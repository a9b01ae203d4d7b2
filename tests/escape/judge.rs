//! What the hostile service says, judged. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// Everything that is wrong with what it said, against the names of its cases; empty: each was tried, and refused.
pub(crate) fn wrong<'a>(names: &BTreeSet<String>, said: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut verdicts: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut wrong = Vec::new();
    for line in said {
        let Some((name, words)) = line.strip_prefix("escape ").and_then(|rest| rest.split_once(": ")) else {
            continue;
        };
        verdicts.entry(name).or_default().insert(words);
    }
    for (name, words) in &verdicts {
        if !names.contains(*name) {
            wrong.push(format!("{name}: no such case"));
        }
        // It says each twice; what was refused once and got through once has got through.
        for word in words.iter().filter(|word| !word.starts_with("refused: ")) {
            wrong.push(format!("{name}: {word}"));
        }
    }
    let untold = names.iter().filter(|name| !verdicts.contains_key(name.as_str()));
    wrong.extend(untold.map(|name| format!("{name}: not a word")));
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(said: &str) -> Vec<String> {
        let names = ["mount", "ptrace"].map(str::to_owned).into();
        wrong(&names, said.lines())
    }

    #[test]
    fn all_refused_is_right() {
        let said =
            "the victim can be reached\nescape mount: refused: EPERM\nescape ptrace: refused: signal 31\n";
        assert!(judge(said).is_empty());
    }

    #[test]
    fn one_escape_is_wrong_however_often_it_was_refused() {
        let said = "escape mount: refused: EPERM\nescape ptrace: refused: EPERM\nescape ptrace: ESCAPED: it returned 0\n";
        assert_eq!(judge(said), ["ptrace: ESCAPED: it returned 0"]);
        assert_eq!(judge(&said.replace("ESCAPED", "UNCLEAR")), ["ptrace: UNCLEAR: it returned 0"]);
    }

    #[test]
    fn silence_and_unknown_names_are_wrong() {
        assert_eq!(judge("escape mount: refused: EPERM\n"), ["ptrace: not a word"]);
        assert_eq!(judge(""), ["mount: not a word", "ptrace: not a word"]);
        let said =
            "escape mount: refused: EPERM\nescape ptrace: refused: EPERM\nescape other: refused: EPERM\n";
        assert_eq!(judge(said), ["other: no such case"]);
    }
}
