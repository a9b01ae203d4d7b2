//! Two image directories, byte by byte.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use casemate_measure::image::{ImageManifest, Input};

use crate::assemble::MANIFEST;
use crate::cpio::{self, Record};
use crate::error::{ImageError, Result};
use crate::unpack;

const INITRAMFS: &str = "initramfs.cpio.zst";
/// No manifest is longer: 16 MiB.
const MAX_MANIFEST: u64 = 16 << 20;

/// What differs between two images, a line each: flavour, every input by its name, and the first difference of what came
/// out: file, member, offset. None: they are the same, byte by byte.
///
/// # Errors
/// If one of them is no image, or cannot be read.
pub fn images(a: &Path, b: &Path) -> Result<Vec<String>> {
    let mut lines = inputs(a, b)?;
    match directories(a, b) {
        Ok(()) => {}
        Err(ImageError::Differs(first)) => lines.push(first),
        Err(error) => return Err(error),
    }
    Ok(lines)
}

/// What their manifests say differently about what went in.
///
/// # Errors
/// If one of them has none.
pub(crate) fn inputs(a: &Path, b: &Path) -> Result<Vec<String>> {
    let (a, b) = (manifest(a)?, manifest(b)?);
    let mut lines = Vec::new();
    if a.flavor != b.flavor {
        let word = |image: &ImageManifest| format!("{:?}", image.flavor).to_lowercase();
        lines.push(format!("flavor: {} on side A, {} on side B", word(&a), word(&b)));
    }
    let (a, b) = (by_name(&a), by_name(&b));
    let keys: BTreeSet<_> = a.keys().chain(b.keys()).copied().collect();
    for key @ (kind, name) in keys {
        let title = format!("input {kind} {name}");
        let none = Vec::new();
        let (in_a, in_b) = (a.get(&key).unwrap_or(&none), b.get(&key).unwrap_or(&none));
        match (in_a.as_slice(), in_b.as_slice()) {
            (a, b) if a == b => {}
            (_, []) => lines.push(format!("{title}: only on side A")),
            ([], _) => lines.push(format!("{title}: only on side B")),
            ([a], [b]) => lines.push(format!("{title}: {}", input(a, b))),
            (a, b) => lines.push(format!("{title}: {} times on side A, {} on side B", a.len(), b.len())),
        }
    }
    Ok(lines)
}

/// The manifest of an image directory.
///
/// # Errors
/// If it cannot be read or is none.
pub(crate) fn manifest(image: &Path) -> Result<ImageManifest> {
    let path = image.join(MANIFEST);
    let length = fs::metadata(&path).map_err(ImageError::at(&path))?.len();
    if length > MAX_MANIFEST {
        let what = path.display().to_string();
        return Err(ImageError::TooLarge { what, limit: MAX_MANIFEST, unit: "bytes" });
    }
    let text = fs::read(&path).map_err(ImageError::at(&path))?;
    serde_json::from_slice(&text).map_err(|error| {
        ImageError::form(path.display().to_string(), "JSON", "an image manifest", error.to_string())
    })
}

fn by_name(manifest: &ImageManifest) -> BTreeMap<(&str, &str), Vec<&Input>> {
    let mut map: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for input in &manifest.inputs {
        map.entry((input.kind.as_str(), input.name.as_str())).or_default().push(input);
    }
    map
}

/// The first field that differs, the version before the digest that follows from it.
fn input(a: &Input, b: &Input) -> String {
    let text = |field: &Option<String>| field.clone().unwrap_or_else(|| "none".to_owned());
    let fields = [
        ("version", text(&a.version), text(&b.version)),
        ("SHA-256", hex::encode(a.sha256), hex::encode(b.sha256)),
        ("license", text(&a.license), text(&b.license)),
        ("source", text(&a.source), text(&b.source)),
    ];
    let differing = fields.into_iter().find(|(_, a, b)| a != b);
    differing.map_or_else(String::new, |(field, a, b)| format!("{field} {a} on side A, {b} on side B"))
}

/// Compares every byte of every file.
///
/// # Errors
/// [`ImageError::Differs`] with the first difference: file, member of the initramfs, offset.
pub fn directories(a: &Path, b: &Path) -> Result<()> {
    let (in_a, in_b) = (names(a)?, names(b)?);
    if let Some(name) = in_a.symmetric_difference(&in_b).next() {
        let side = if in_a.contains(name) { "A" } else { "B" };
        return Err(ImageError::Differs(format!("{name}: only on side {side}")));
    }
    // The initramfs first and the manifest last: the others follow from what differs there.
    let mut order: Vec<&String> = in_a.iter().collect();
    order.sort_by_key(|name| (name.as_str() == MANIFEST, name.as_str() != INITRAMFS, name.as_str()));
    for name in order {
        let read = |side: &Path| file(&side.join(name));
        let (a, b) = (read(a)?, read(b)?);
        if let Some(difference) = first(&a, &b) {
            // If one of them is no archive, the bytes differ all the same.
            let deeper = if name == INITRAMFS { initramfs(&a, &b).ok().flatten() } else { None };
            return Err(ImageError::Differs(format!("{name}: {}", deeper.unwrap_or(difference))));
        }
    }
    Ok(())
}

fn file(path: &Path) -> Result<Vec<u8>> {
    if !fs::metadata(path).map_err(ImageError::at(path))?.is_file() {
        return Err(ImageError::form(path.display().to_string(), "type", "a file", "something else"));
    }
    fs::read(path).map_err(ImageError::at(path))
}

fn names(dir: &Path) -> Result<BTreeSet<String>> {
    fs::read_dir(dir)
        .map_err(ImageError::at(dir))?
        .map(|entry| Ok(entry.map_err(ImageError::at(dir))?.file_name().to_string_lossy().into_owned()))
        .collect()
}

fn first(a: &[u8], b: &[u8]) -> Option<String> {
    if let Some(at) = a.iter().zip(b).position(|(a, b)| a != b) {
        return Some(format!("first difference at offset {at} of {} and {} bytes", a.len(), b.len()));
    }
    (a.len() != b.len())
        .then(|| format!("the same up to the end of the shorter: {} and {} bytes", a.len(), b.len()))
}

/// Which member; `None` if the members are the same and only the compression differs.
fn initramfs(a: &[u8], b: &[u8]) -> Result<Option<String>> {
    let (a, b) = (unpack::decompress(INITRAMFS, a)?, unpack::decompress(INITRAMFS, b)?);
    let (in_a, in_b) = (cpio::records(&a)?, cpio::records(&b)?);
    for (left, right) in in_a.iter().zip(&in_b) {
        if left.path != right.path {
            return Ok(Some(format!("member {} on side A, {} on side B", left.path, right.path)));
        }
        let content = |bytes, record: &Record| part(bytes, record.content.clone());
        if let Some(difference) = first(content(&a, left), content(&b, right)) {
            return Ok(Some(format!("member {}: {difference}", left.path)));
        }
        if part(&a, left.extent.clone()) != part(&b, right.extent.clone()) {
            return Ok(Some(format!("member {}: its header (mode, time or inode number)", left.path)));
        }
    }
    Ok((in_a.len() != in_b.len()).then(|| format!("{} and {} members", in_a.len(), in_b.len())))
}

fn part(bytes: &[u8], range: std::ops::Range<usize>) -> &[u8] {
    bytes.get(range).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::MemberPath;
    use crate::tree::{Node, Tree};

    fn image(files: &[(&str, &[u8])], mtime: u32, members: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = Tree::new();
        for (path, content) in members {
            tree.insert(MemberPath::parse(path).unwrap(), Node::plain(*content)).unwrap();
        }
        let mut writer = cpio::Writer::new(mtime);
        writer.tree(&tree).unwrap();
        let initramfs = zstd::encode_all(&writer.finish().unwrap()[..], 3).unwrap();
        fs::write(dir.path().join(INITRAMFS), initramfs).unwrap();
        for (name, content) in files {
            fs::write(dir.path().join(name), content).unwrap();
        }
        dir
    }

    #[test]
    fn the_first_difference_is_named() {
        let base = image(&[("bzImage", b"kernel"), (MANIFEST, b"1")], 7, &[("a", b"alpha"), ("b", b"beta")]);
        let judge =
            |other: &tempfile::TempDir| directories(base.path(), other.path()).map_err(|e| e.to_string());
        assert_eq!(
            judge(&image(&[("bzImage", b"kernel"), (MANIFEST, b"1")], 7, &[("a", b"alpha"), ("b", b"beta")])),
            Ok(())
        );
        for (files, mtime, members, expected) in [
            (
                &[("bzImage", &b"kernel"[..]), (MANIFEST, b"2")][..],
                7,
                &[("a", &b"alpha"[..]), ("b", b"beta")][..],
                "manifest.json: first difference at offset 0 of 1 and 1 bytes",
            ),
            (
                &[("bzImage", b"kernal"), (MANIFEST, b"2")],
                7,
                &[("a", b"alpha"), ("b", b"beta")],
                "bzImage: first difference at offset 4 of 6 and 6 bytes",
            ),
            (
                &[("bzImage", b"kernal"), (MANIFEST, b"2")],
                7,
                &[("a", b"alpha"), ("b", b"betA")],
                "initramfs.cpio.zst: member b: first difference at offset 3 of 4 and 4 bytes",
            ),
            (
                &[("bzImage", b"kernel"), (MANIFEST, b"1")],
                8,
                &[("a", b"alpha"), ("b", b"beta")],
                "initramfs.cpio.zst: member a: its header (mode, time or inode number)",
            ),
            (
                &[("bzImage", b"kernel"), (MANIFEST, b"1")],
                7,
                &[("a", b"alpha")],
                "initramfs.cpio.zst: 2 and 1 members",
            ),
            (&[(MANIFEST, b"1")], 7, &[("a", b"alpha")], "bzImage: only on side A"),
        ] {
            assert_eq!(judge(&image(files, mtime, members)), Err(format!("not reproducible: {expected}")));
        }
    }

    #[test]
    fn inputs_that_differ_are_named() {
        let manifest = |flavor: &str, inputs: &[(&str, &str, &str, u8)]| {
            let inputs: Vec<_> = inputs
                .iter()
                .map(|(kind, name, version, digest)| {
                    let sha256 = hex::encode([*digest; 32]);
                    serde_json::json!({"kind": kind, "name": name, "version": version, "sha256": sha256})
                })
                .collect();
            serde_json::json!({"version": 1, "flavor": flavor, "outputs": {}, "inputs": inputs}).to_string()
        };
        let a = manifest(
            "dev",
            &[("toolchain", "libc6-dev", "1", 1), ("init", "x", "1", 1), ("lock", "l", "1", 1)],
        );
        let b = manifest(
            "prod",
            &[("toolchain", "libc6-dev", "2", 2), ("init", "x", "1", 2), ("document", "d", "1", 1)],
        );
        let side =
            |manifest: &str, init: &[u8]| image(&[(MANIFEST, manifest.as_bytes())], 7, &[("init", init)]);
        let (a, b) = (side(&a, b"one"), side(&b, b"two"));
        assert_eq!(images(a.path(), a.path()).unwrap(), [""; 0]);
        let (one, two) = ("01".repeat(32), "02".repeat(32));
        assert_eq!(
            images(a.path(), b.path()).unwrap(),
            [
                "flavor: dev on side A, prod on side B".to_owned(),
                "input document d: only on side B".to_owned(),
                format!("input init x: SHA-256 {one} on side A, {two} on side B"),
                "input lock l: only on side A".to_owned(),
                "input toolchain libc6-dev: version 1 on side A, 2 on side B".to_owned(),
                "initramfs.cpio.zst: member init: first difference at offset 0 of 3 and 3 bytes".to_owned(),
            ]
        );
    }

    #[test]
    fn what_is_no_image_is_an_error_and_no_difference() {
        let good = image(&[(MANIFEST, br#"{"version":1,"flavor":"dev","outputs":{},"inputs":[]}"#)], 7, &[]);
        let empty = tempfile::tempdir().unwrap();
        assert!(images(good.path(), empty.path()).unwrap_err().to_string().contains("manifest.json"));
        let broken = image(&[(MANIFEST, b"[]")], 7, &[]);
        let error = images(broken.path(), good.path()).unwrap_err().to_string();
        assert!(error.contains("manifest.json: JSON: expected an image manifest"), "{error}");
        // An initramfs that is none differs, and that is all there is to say.
        let torn = image(&[(MANIFEST, br#"{"version":1,"flavor":"dev","outputs":{},"inputs":[]}"#)], 7, &[]);
        fs::write(torn.path().join(INITRAMFS), b"\x28\xb5\x2f\xfd torn").unwrap();
        let lines = images(good.path(), torn.path()).unwrap();
        assert!(
            lines.len() == 1 && lines[0].starts_with("initramfs.cpio.zst: first difference"),
            "{lines:?}"
        );
    }
}
