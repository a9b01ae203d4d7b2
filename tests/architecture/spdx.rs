//! Just enough of SPDX licence expressions (SPDX 2.3 annex D): `AND` binds closer than `OR`, `WITH` closest; a slash is
//! `OR`, as old manifests write it.

/// Whether an expression can be satisfied with licences that are all allowed. What is no expression cannot.
pub(crate) fn satisfied(expression: &str, allowed: &dyn Fn(&str) -> bool) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = tokens.as_slice();
    either(&mut rest, allowed).is_some_and(|good| good && rest.is_empty())
}

fn either(rest: &mut &[&str], allowed: &dyn Fn(&str) -> bool) -> Option<bool> {
    let mut good = both(rest, allowed)?;
    while take(rest, "OR") {
        good |= both(rest, allowed)?;
    }
    Some(good)
}

fn both(rest: &mut &[&str], allowed: &dyn Fn(&str) -> bool) -> Option<bool> {
    let mut good = one(rest, allowed)?;
    while take(rest, "AND") {
        good &= one(rest, allowed)?;
    }
    Some(good)
}

fn one(rest: &mut &[&str], allowed: &dyn Fn(&str) -> bool) -> Option<bool> {
    if take(rest, "(") {
        let good = either(rest, allowed)?;
        return take(rest, ")").then_some(good);
    }
    let name = word(rest)?;
    if take(rest, "WITH") {
        let exception = word(rest)?;
        return Some(allowed(&format!("{name} WITH {exception}")));
    }
    Some(allowed(name))
}

fn word<'a>(rest: &mut &[&'a str]) -> Option<&'a str> {
    let (first, after) = rest.split_first()?;
    let plain = !["AND", "OR", "WITH", "(", ")"].contains(first);
    *rest = after;
    plain.then_some(first)
}

fn take(rest: &mut &[&str], token: &str) -> bool {
    match rest.split_first() {
        Some((first, after)) if *first == token => {
            *rest = after;
            true
        }
        _ => false,
    }
}

#[test]
fn expressions() {
    let allowed = |name: &str| ["MIT", "ISC", "Apache-2.0"].contains(&name);
    for good in [
        "MIT",
        "GPL-3.0 OR MIT",
        "MIT/GPL-3.0",
        "MIT AND ISC",
        "(MIT OR GPL-3.0) AND ISC",
        "GPL-3.0 AND X OR MIT",
        "Apache-2.0 WITH LLVM-exception OR MIT",
    ] {
        assert!(satisfied(good, &allowed), "{good}");
    }
    for bad in [
        "",
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "MIT OR",
        "OR MIT",
        "(MIT",
        "MIT)",
        "MIT ISC",
        "Apache-2.0 WITH LLVM-exception",
        "MIT AND (GPL-3.0 OR X)",
        "WITH",
        "mit",
    ] {
        assert!(!satisfied(bad, &allowed), "{bad}");
    }
}
