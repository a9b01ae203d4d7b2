//! Last pass over the section: what is right, but has no stage in this version, is refused and never ignored.

use super::dstack::is;
use super::error::Problem;
use super::json::Value;
use super::keys::{self, Carried, Key};
use super::path;
use super::shape::SECTION;

/// Judges every value of the completed section by the table.
pub(super) fn check(section: &Value) -> Result<(), Problem> {
    registration(section)?;
    fields(section, SECTION, "")?;
    together(section)
}

/// What no single key says: a VPN whose coordinator would be found by registering at a VPC server, or whose nodes have IPv6 alone, and
/// resolvers that only the VPN process asks so far.
fn together(section: &Value) -> Result<(), Problem> {
    let inside = |value: &Value, key: &str| match value {
        Value::Object(fields) => fields.get(key).cloned(),
        _ => None,
    };
    let Some(vpn) = inside(section, "vpn") else { return Ok(()) };
    let tunnel = inside(&vpn, "mode").is_some_and(|mode| mode == Value::Text("tunnel".to_owned()));
    if tunnel && inside(&vpn, "login_server") == Some(Value::Null) {
        return Err(Problem::NotImplemented {
            path: format!("{SECTION}.vpn.login_server"),
            found: "null, the default, with mode \"tunnel\"".to_owned(),
            implemented: "an object; there is no VPC server to register at yet".to_owned(),
        });
    }
    let ipv4 = |prefix: &Value| matches!(prefix, Value::Text(text) if !text.contains(':'));
    let prefixes = inside(&vpn, "prefixes");
    if let Some(prefixes @ Value::List(items)) = prefixes.as_ref().filter(|_| tunnel)
        && !items.iter().any(ipv4)
    {
        return Err(Problem::NotImplemented {
            path: format!("{SECTION}.vpn.prefixes"),
            found: format!("{} without an IPv4 prefix", prefixes.describe()),
            implemented: "only with one; the machine has no IPv6".to_owned(),
        });
    }
    let resolvers = inside(section, "dns").and_then(|dns| inside(&dns, "resolvers"));
    if let Some(resolvers @ Value::List(items)) = resolvers.as_ref().filter(|_| !tunnel)
        && !items.is_empty()
    {
        return Err(Problem::NotImplemented {
            path: format!("{SECTION}.dns.resolvers"),
            found: format!("{} with mode \"direct\"", resolvers.describe()),
            implemented: "only []; they are asked for the names of a tunnel's login server and relays"
                .to_owned(),
        });
    }
    Ok(())
}

fn value(found: &Value, at: &str, row: &Key) -> Result<(), Problem> {
    let carried = match row.carried {
        Carried::Yes => true,
        Carried::No => false,
        Carried::Only(values) => values.iter().any(|one| is(found, one)),
        Carried::Where(test, _) => test(found),
    };
    if !carried {
        let default = row.default.is_some_and(|default| is(found, default));
        return Err(Problem::NotImplemented {
            path: at.to_owned(),
            found: format!("{}{}", found.describe(), if default { ", the default" } else { "" }),
            implemented: row.carried.words(),
        });
    }
    fields(found, at, row.path)
}

/// Goes into what is inside a value.
fn fields(found: &Value, at: &str, row_path: &str) -> Result<(), Problem> {
    let row = |suffix: &str, at: &str| {
        let path = if row_path.is_empty() {
            suffix.trim_start_matches('.').to_owned()
        } else {
            format!("{row_path}{suffix}")
        };
        keys::row(&path).ok_or_else(|| Problem::invalid(at, "a key of the table", "none"))
    };
    match found {
        Value::List(items) => items.iter().enumerate().try_for_each(|(index, item)| {
            let at = path::index(at, index);
            value(item, &at, row("[]", &at)?)
        }),
        Value::Object(fields) => {
            let map = keys::row(row_path).is_some_and(|row| matches!(row.kind, keys::Kind::Map { .. }));
            fields.iter().try_for_each(|(name, field)| {
                let at = path::key(at, name);
                let suffix = if map { ".*".to_owned() } else { format!(".{name}") };
                value(field, &at, row(&suffix, &at)?)
            })
        }
        _ => Ok(()),
    }
}

/// A VPC server that is named: the table alone would not say why it is of no use.
fn registration(section: &Value) -> Result<(), Problem> {
    let Value::Object(section) = section else { return Ok(()) };
    let Some(Value::Object(vpn)) = section.get("vpn") else { return Ok(()) };
    match vpn.get("server_app_id") {
        Some(named) if !is(named, "\"self\"") => Err(Problem::NotImplemented {
            path: format!("{SECTION}.vpn.server_app_id"),
            found: named.describe(),
            implemented: "only \"self\"; there is no VPC server to register at yet".to_owned(),
        }),
        _ => Ok(()),
    }
}
