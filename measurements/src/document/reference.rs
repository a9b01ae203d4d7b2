//! The tables of keys and of dstack's fields as Markdown, from the same rows that the parser reads. The README shows
//! them; a test holds it equal.

use std::fmt::Write as _;

use super::dstack::FIELDS;
use super::keys::KEYS;

/// Every key of the section: type, bounds, default, meaning, and what this version carries out.
pub fn keys() -> String {
    let mut table = "| key | type and bounds | default | meaning | in this version |\n\
                     | --- | --- | --- | --- | --- |\n"
        .to_owned();
    for key in KEYS {
        let (path, kind, meaning, carried) = (key.path, key.kind.words(), key.meaning, key.carried.words());
        // An item of a list or a value of a map is written or not: it has no default.
        let part = path.ends_with(']') || path.ends_with('*');
        let default = if part { "-".to_owned() } else { default(key.default) };
        row(&mut table, format_args!("`{path}` | {kind} | {default} | {meaning} | {carried}"));
    }
    table
}

/// Every field of dstack's: what the appliance makes of it. In a container all of them are left to dstack's own guest.
pub fn dstack_fields() -> String {
    let mut table = "| field | dstack's default | the appliance accepts | which is | because | container |\n\
                     | --- | --- | --- | --- | --- | --- |\n"
        .to_owned();
    for field in FIELDS {
        let (accepts, verdict) = (field.accepts.words(), field.verdict.words());
        let (name, default, why) = (field.name, default(field.default), field.why);
        row(
            &mut table,
            format_args!("`{name}` | {default} | {accepts} | {verdict} | {why} | dstack's guest"),
        );
    }
    table
}

fn default(json: Option<&str>) -> String {
    json.map_or_else(|| "required".to_owned(), |json| format!("`{json}`"))
}

fn row(table: &mut String, cells: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _: std::fmt::Result = writeln!(table, "| {cells} |");
}

#[cfg(test)]
mod tests {
    const README: &str = include_str!("../../README.md");

    /// The lines between `<!-- NAME -->` and `<!-- /NAME -->`.
    fn shown(name: &str) -> &'static str {
        let (_, after) = README.split_once(&format!("<!-- {name} -->\n\n")).unwrap();
        after.split_once(&format!("\n<!-- /{name} -->")).unwrap().0
    }

    #[test]
    fn the_readme_shows_the_tables_of_the_code() {
        for (name, table) in [("keys", super::keys()), ("dstack", super::dstack_fields())] {
            assert!(
                shown(name) == table,
                "README.md: the table {name:?} should be (`cargo measure reference`):\n{table}"
            );
        }
    }
}
