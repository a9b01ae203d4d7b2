//! Cargo, for tests that build something.

use std::process::Command;

/// Cargo, without what it says to a test of the test's own package: ring's build script looks at it, so that everything on top of
/// ring would be compiled again, and once more by the next build that nobody's test started.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(name);
        }
    }
    cargo
}
