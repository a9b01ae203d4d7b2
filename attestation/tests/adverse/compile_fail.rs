//! What must not compile: an unverified value where a verified one is needed. Each case of `tests/compile_fail` is compiled
//! against the library that this test is linked with; its `.stderr` holds the errors without their places. One without must compile.
//!
//! Not `trybuild`: that builds all dependencies once more, in a folder of its own, which takes longer than all of this target.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

/// The library in the folder of this executable: of those that are older than it, the newest. Cargo links an executable again
/// whenever it makes its library again; there may be others, of other features or of former times.
fn library() -> PathBuf {
    let executable = std::env::current_exe().unwrap();
    let changed =
        |path: &Path| path.metadata().and_then(|data| data.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let limit = changed(&executable);
    let entries = std::fs::read_dir(executable.parent().unwrap()).unwrap();
    let is_one = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with("libcasemate_verify-") && name.ends_with(".rlib") && changed(path) <= limit
    };
    let libraries = entries.map(|entry| entry.unwrap().path()).filter(is_one);
    libraries
        .max_by_key(|path| changed(path))
        .unwrap_or_else(|| panic!("no library beside {}", executable.display()))
}

/// The errors, without their places.
fn errors(case: &Path, library: &Path) -> Vec<String> {
    let compiled = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args([
            "--edition",
            "2024",
            "--crate-type",
            "lib",
            "--emit",
            "metadata",
            "--error-format",
            "short",
            "--out-dir",
        ])
        .arg(env!("CARGO_TARGET_TMPDIR"))
        .arg("-L")
        .arg(format!("dependency={}", library.parent().unwrap().display()))
        .arg("--extern")
        .arg(format!("casemate_verify={}", library.display()))
        .arg(case)
        .env_remove("RUSTC_WRAPPER")
        .output()
        .unwrap();
    let text = String::from_utf8(compiled.stderr).unwrap();
    // "FILE:LINE:COLUMN: error[CODE]: …"; the summary has no place.
    let errors = text
        .lines()
        .filter_map(|line| Some(line.split_once(": ")?.1))
        .filter(|text| text.starts_with("error"));
    let errors: Vec<_> = errors.map(str::to_owned).collect();
    assert_eq!(compiled.status.success(), errors.is_empty(), "{}: {text}", case.display());
    errors
}

#[test]
fn unverified_values_do_not_get_through() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compile_fail");
    let library = library();
    let (mut refused, mut compiled, mut wrong) = (0, 0, Vec::new());
    let mut cases: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    for case in cases.iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs")) {
        let expected = std::fs::read_to_string(case.with_extension("stderr")).unwrap_or_default();
        let found = errors(case, &library);
        if !expected.lines().eq(found.iter().map(String::as_str)) {
            wrong.push(format!("{}: expected\n{expected}found\n{}\n", case.display(), found.join("\n")));
        }
        if found.is_empty() { compiled += 1 } else { refused += 1 }
    }
    assert!(wrong.is_empty(), "{}", wrong.concat());
    // Were nothing compiled, or everything, the errors would say nothing.
    assert_eq!((refused, compiled), (12, 2));
    assert_eq!(cases.len(), 12 * 2 + 2, "a .stderr without its case");
}
