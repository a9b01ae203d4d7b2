//! OCI and `docker save` image archives as a tree: layers in order, whiteouts applied, digests checked
//! (OCI image specification 1.1: image-layout, manifest, config, layer).

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::error::{ImageError, Result};
use crate::path::MemberPath;
use crate::tree::{Node, Tree};
use crate::unpack::{self, Member};

/// layer.md, "Whiteouts": a file of this prefix removes its sibling; the opaque one removes all siblings.
const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";
/// The only platform that an image of ours runs.
const PLATFORM: (&str, &str) = ("linux", "amd64");
/// How deep an index may point to an index.
const MAX_INDEXES: usize = 3;

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Clone, Deserialize)]
struct Descriptor {
    digest: String,
    #[serde(default, rename = "mediaType")]
    media_type: String,
    platform: Option<Platform>,
}

#[derive(Clone, Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// `manifest.json` of `docker save`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct Config {
    os: String,
    architecture: String,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

/// The root file system of the one image in an archive. `name` is for errors.
///
/// # Errors
/// If the archive is broken, has several images or another platform's, a digest does not match, or a layer holds
/// what an image must not carry.
pub fn read(name: &str, bytes: &[u8]) -> Result<Tree> {
    let archive = Archive { name, tree: unpack::tree(name, &unpack::decompress(name, bytes)?, |_| true)? };
    let (config, layers) = if archive.has("oci-layout") { archive.oci()? } else { archive.docker()? };
    let config: Config = archive.json("the image configuration", &config)?;
    let platform = (config.os.as_str(), config.architecture.as_str());
    if platform != PLATFORM {
        return Err(archive.wrong("platform", "linux/amd64", format!("{}/{}", platform.0, platform.1)));
    }
    if config.rootfs.diff_ids.len() != layers.len() {
        let expected = format!("{} layers, as many as diff_ids", config.rootfs.diff_ids.len());
        return Err(archive.wrong("layers", &expected, layers.len().to_string()));
    }
    let mut root = Tree::new();
    for (index, (layer, diff_id)) in layers.iter().zip(&config.rootfs.diff_ids).enumerate() {
        let title = format!("{name}: layer {index}");
        let unpacked = unpack::decompress(&title, layer)?;
        let found = format!("sha256:{}", hex::encode(Sha256::digest(&unpacked)));
        if found != *diff_id {
            return Err(ImageError::form(title, "diff_id", diff_id.as_str(), found));
        }
        apply(&title, &mut root, unpack::members(&title, &unpacked, |_| true)?)?;
        if root.size() > unpack::MAX_BYTES {
            return Err(ImageError::TooLarge {
                what: name.to_owned(),
                limit: unpack::MAX_BYTES,
                unit: "bytes",
            });
        }
    }
    Ok(root)
}

/// Whiteouts are about the layers below only, wherever they stand in their own.
fn apply(layer: &str, root: &mut Tree, members: Vec<(MemberPath, Member)>) -> Result<()> {
    let failed = |path: &MemberPath, why: String| ImageError::member(layer, path.as_str(), why);
    for (path, _) in &members {
        let Some(hidden) = path.name().strip_prefix(WHITEOUT) else { continue };
        let place = root.real_parent(path).map_err(|why| failed(path, why.to_string()))?;
        match (path.name() == OPAQUE, place.parent()) {
            (true, Some(directory)) => root.clear(&directory),
            (true, None) => *root = Tree::new(),
            (false, directory) => {
                let name = MemberPath::parse(hidden)
                    .map_err(|why| failed(path, format!("a whiteout of {hidden:?}: {why}")))?;
                root.remove(&directory.map_or_else(|| name.clone(), |directory| directory.join(&name)));
            }
        }
    }
    for (path, member) in members {
        if path.name().starts_with(WHITEOUT) {
            continue;
        }
        let node = match member {
            Member::Node(node) => node,
            Member::HardLink(target) => {
                let place = root.real_parent(&target).map_err(|why| failed(&path, why.to_string()))?;
                match root.get(&place) {
                    Some(node @ (Node::File { .. } | Node::Symlink { .. })) => node.clone(),
                    _ => return Err(failed(&path, format!("a hard link to {target}, which is no file"))),
                }
            }
        };
        root.overlay(&path, node).map_err(|why| failed(&path, why.to_string()))?;
    }
    Ok(())
}

struct Archive<'a> {
    name: &'a str,
    tree: Tree,
}

impl Archive<'_> {
    fn has(&self, path: &str) -> bool {
        MemberPath::parse(path).is_ok_and(|path| self.tree.get(&path).is_some())
    }

    fn wrong(&self, field: &str, expected: &str, found: impl Into<String>) -> ImageError {
        ImageError::form(self.name, field, expected, found)
    }

    fn file(&self, path: &str) -> Result<&[u8]> {
        let resolved = MemberPath::parse(path).ok().and_then(|path| self.tree.resolve(&path).ok().flatten());
        match resolved {
            Some((_, Node::File { content, .. })) => Ok(content),
            _ => Err(self.wrong(path, "a file in the archive", "none")),
        }
    }

    fn json<T: for<'de> Deserialize<'de>>(&self, what: &str, bytes: &[u8]) -> Result<T> {
        serde_json::from_slice(bytes)
            .map_err(|error| self.wrong(what, "JSON of an OCI image", error.to_string()))
    }

    /// A blob, whose bytes are what its descriptor says.
    fn blob(&self, descriptor: &Descriptor) -> Result<&[u8]> {
        let digest = descriptor
            .digest
            .strip_prefix("sha256:")
            .filter(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
            .ok_or_else(|| self.wrong("digest", "sha256 and 64 hex digits", descriptor.digest.as_str()))?;
        let path = format!("blobs/sha256/{digest}");
        let bytes = self.file(&path)?;
        let found = hex::encode(Sha256::digest(bytes));
        if found != digest {
            return Err(self.wrong(&path, &format!("SHA-256 {digest}"), found));
        }
        Ok(bytes)
    }

    fn oci(&self) -> Result<(Vec<u8>, Vec<Vec<u8>>)> {
        let mut index: Index = self.json("index.json", self.file("index.json")?)?;
        for _ in 0..MAX_INDEXES {
            let descriptor = self.choose(&index)?;
            let bytes = self.blob(&descriptor)?;
            if !descriptor.media_type.ends_with(".index.v1+json")
                && !descriptor.media_type.contains("manifest.list")
            {
                let manifest: Manifest = self.json("the image manifest", bytes)?;
                let layers =
                    manifest.layers.iter().map(|l| Ok(self.blob(l)?.to_vec())).collect::<Result<_>>()?;
                return Ok((self.blob(&manifest.config)?.to_vec(), layers));
            }
            index = self.json("an image index", bytes)?;
        }
        Err(self.wrong("index.json", &format!("at most {MAX_INDEXES} indexes on the way"), "more"))
    }

    /// The one manifest for our platform. Attestation manifests (platform unknown/unknown) are not images.
    fn choose(&self, index: &Index) -> Result<Descriptor> {
        let ours = |d: &&Descriptor| {
            d.platform.as_ref().is_none_or(|p| (p.os.as_str(), p.architecture.as_str()) == PLATFORM)
        };
        let fitting: Vec<&Descriptor> = index.manifests.iter().filter(ours).collect();
        match fitting.as_slice() {
            [one] => Ok((*one).clone()),
            other => Err(self.wrong("index.json", "one image for linux/amd64", other.len().to_string())),
        }
    }

    fn docker(&self) -> Result<(Vec<u8>, Vec<Vec<u8>>)> {
        if !self.has("manifest.json") {
            return Err(self.wrong("archive", "an OCI layout or a `docker save` archive", "neither"));
        }
        let saved: Vec<Saved> = self.json("manifest.json", self.file("manifest.json")?)?;
        let [image] = saved.as_slice() else {
            return Err(self.wrong("manifest.json", "one image", saved.len().to_string()));
        };
        let layers = image.layers.iter().map(|path| Ok(self.file(path)?.to_vec())).collect::<Result<_>>()?;
        Ok((self.file(&image.config)?.to_vec(), layers))
    }
}

#[cfg(test)]
mod tests {
    use tar::EntryType::{self, Directory, Link, Regular, Symlink};

    use super::*;
    use crate::unpack::tests::{archive, gzip};

    type Entry<'a> = (&'a str, EntryType, u32, &'a str);

    fn digest(bytes: &[u8]) -> String {
        hex::encode(Sha256::digest(bytes))
    }

    fn pack(files: &[(String, Vec<u8>)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, path, &content[..]).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn config(architecture: &str, layers: &[Vec<u8>]) -> Vec<u8> {
        let ids: Vec<String> = layers.iter().map(|l| format!("sha256:{}", digest(l))).collect();
        serde_json::json!({"os": "linux", "architecture": architecture, "rootfs": {"type": "layers", "diff_ids": ids}})
            .to_string()
            .into_bytes()
    }

    fn oci(layers: &[&[Entry<'_>]], change: impl Fn(&mut Vec<(String, Vec<u8>)>)) -> Vec<u8> {
        let layers: Vec<Vec<u8>> = layers.iter().map(|entries| archive(entries)).collect();
        let config = config("amd64", &layers);
        let mut files: Vec<(String, Vec<u8>)> = vec![("oci-layout".into(), b"{}".to_vec())];
        let mut blob = |bytes: Vec<u8>, media: &str| {
            let described = serde_json::json!({"digest": format!("sha256:{}", digest(&bytes)), "mediaType": media, "size": bytes.len()});
            files.push((format!("blobs/sha256/{}", digest(&bytes)), bytes));
            described
        };
        let layers: Vec<_> = layers
            .iter()
            .enumerate()
            .map(|(n, l)| blob(if n == 0 { gzip(l) } else { zstd::encode_all(&l[..], 1).unwrap() }, "layer"))
            .collect();
        let config = blob(config, "config");
        let manifest = serde_json::json!({"config": config, "layers": layers}).to_string().into_bytes();
        let manifest = blob(manifest, "application/vnd.oci.image.manifest.v1+json");
        files.push((
            "index.json".into(),
            serde_json::json!({"manifests": [manifest]}).to_string().into_bytes(),
        ));
        change(&mut files);
        pack(&files)
    }

    fn listing(tree: &Tree) -> String {
        let line = |(path, node): (&MemberPath, &Node)| match node {
            Node::Directory => format!("{path}/"),
            Node::File { content, .. } => format!("{path}={}", String::from_utf8_lossy(content)),
            Node::Symlink { target } => format!("{path}->{target}"),
        };
        tree.iter().map(line).collect::<Vec<_>>().join(" ")
    }

    const LOWER: &[Entry<'_>] = &[
        ("usr/lib/", Directory, 0o755, ""),
        ("usr/lib/one", Regular, 0o644, "1"),
        ("lib", Symlink, 0o777, "usr/lib"),
        ("etc/a", Regular, 0o644, "a"),
        ("etc/b", Regular, 0o644, "b"),
        ("var/x/deep", Regular, 0o644, "x"),
        ("var/y", Regular, 0o644, "y"),
    ];
    const UPPER: &[Entry<'_>] = &[
        ("etc/.wh.a", Regular, 0o644, ""),
        ("etc/c", Link, 0o644, "lib/one"),
        ("var/new", Regular, 0o644, "n"),
        // Opaque after a file of its own layer: the file stays.
        ("var/.wh..wh..opq", Regular, 0o644, ""),
        ("lib/two", Regular, 0o644, "2"),
        ("lib/.wh.one", Regular, 0o644, ""),
        ("etc/b", Directory, 0o755, ""),
    ];

    #[test]
    fn layers_apply_in_order_with_whiteouts() {
        // The hard link is made before the whiteout of the layer below is looked at again: /lib/one is gone for it.
        let error = read("app.tar", &oci(&[LOWER, UPPER], |_| {})).unwrap_err().to_string();
        assert_eq!(error, "app.tar: layer 1: etc/c: refused: a hard link to lib/one, which is no file");
        let upper: Vec<Entry<'_>> =
            UPPER.iter().map(|e| if e.1 == Link { ("etc/c", Link, 0o644, "lib/two") } else { *e }).collect();
        let mut upper = upper;
        upper.swap(1, 4);
        let tree = read("app.tar", &oci(&[LOWER, &upper], |_| {})).unwrap();
        assert_eq!(
            listing(&tree),
            "etc/ etc/b/ etc/c=2 lib->usr/lib usr/ usr/lib/ usr/lib/two=2 var/ var/new=n"
        );
    }

    #[test]
    fn a_changed_blob_is_named() {
        let bytes = oci(&[LOWER], |files| {
            let layer = files.iter_mut().find(|(name, _)| name.starts_with("blobs/")).unwrap();
            *layer.1.last_mut().unwrap() ^= 1;
        });
        let error = read("app.tar", &bytes).unwrap_err().to_string();
        assert!(error.starts_with("app.tar: blobs/sha256/") && error.contains("expected SHA-256"), "{error}");
    }

    #[test]
    fn docker_save_with_a_linked_layer() {
        let layer = archive(LOWER);
        let config = config("amd64", &[layer.clone(), layer.clone()]);
        let manifest = serde_json::json!([{"Config": "c.json", "RepoTags": null, "Layers": ["x/layer.tar", "y/layer.tar"]}]);
        let files = [
            ("manifest.json".to_owned(), manifest.to_string().into_bytes()),
            ("c.json".to_owned(), config),
            ("x/layer.tar".to_owned(), layer),
        ];
        let mut start = pack(&files);
        // Without the two blocks that end an archive.
        start.truncate(start.len() - 1024);
        let mut builder = tar::Builder::new(start);
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        builder.append_link(&mut header, "y/layer.tar", "../x/layer.tar").unwrap();
        let tree = read("saved.tar", &gzip(&builder.into_inner().unwrap())).unwrap();
        assert!(listing(&tree).contains("usr/lib/one=1"));
    }

    #[test]
    fn other_platforms_and_other_archives_are_refused() {
        let layer = archive(LOWER);
        let manifest = serde_json::json!([{"Config": "c.json", "Layers": ["l"]}]).to_string().into_bytes();
        let files = [
            ("manifest.json".to_owned(), manifest),
            ("c.json".to_owned(), config("arm64", std::slice::from_ref(&layer))),
            ("l".to_owned(), layer.clone()),
        ];
        let error = read("a.tar", &pack(&files)).unwrap_err().to_string();
        assert_eq!(error, "a.tar: platform: expected linux/amd64, found linux/arm64");
        let error = read("a.tar", &layer).unwrap_err().to_string();
        assert_eq!(error, "a.tar: archive: expected an OCI layout or a `docker save` archive, found neither");
    }

    #[test]
    fn a_layer_cannot_leave_the_root() {
        let layer: &[Entry<'_>] =
            &[("out", Symlink, 0o777, "../../../../etc"), ("out/passwd", Regular, 0o644, "root")];
        let tree = read("app.tar", &oci(&[layer], |_| {})).unwrap();
        assert_eq!(listing(&tree), "etc/ etc/passwd=root out->../../../../etc");
        let layer: &[Entry<'_>] = &[("a/../../evil", Regular, 0o644, "")];
        let error = read("app.tar", &oci(&[layer], |_| {})).unwrap_err().to_string();
        assert_eq!(error, "app.tar: layer 0: a/../../evil: refused: a path with `..`");
        let layer: &[Entry<'_>] = &[("etc/.wh...", Regular, 0o644, "")];
        let error = read("app.tar", &oci(&[layer], |_| {})).unwrap_err().to_string();
        assert_eq!(error, "app.tar: layer 0: etc/.wh...: refused: a whiteout of \"..\": a path with `..`");
    }
}
