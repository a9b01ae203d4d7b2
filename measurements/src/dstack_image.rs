//! The files by which dstack knows an image directory (dstack `vmm/src/app/image.rs`, `os/image/assemble.sh`).

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// `metadata.json`. Its files lie beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// The firmware.
    pub bios: String,
    /// The kernel.
    pub kernel: String,
    /// The command line itself.
    pub cmdline: String,
    /// The initramfs.
    pub initrd: String,
    /// `X.Y.Z`: which dstack's guest it is like. A VMM refuses less than 0.5.0 and binds MRCONFIGID from 0.5.2 on.
    pub version: String,
    /// Whether the host share is read-only.
    pub shared_ro: bool,
    /// Development or production.
    pub is_dev: bool,
    /// How the firmware measures: [`PRE_202505`].
    pub ovmf_variant: String,
}

/// `ovmf_variant` of firmware before edk2-stable202505.
pub const PRE_202505: &str = "pre202505";

/// A file of the image, by its name in the directory.
pub type Listed<'a> = (&'a str, [u8; 32]);

/// `sha256sum.txt`, as coreutils writes it. dstack's order: firmware, kernel, initramfs, `metadata.json`.
pub fn sha256sum(files: &[Listed<'_>]) -> String {
    files.iter().fold(String::new(), |mut text, (name, digest)| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{}  {name}", hex::encode(digest));
        text
    })
}

/// SHA-256 of `sha256sum.txt`.
pub fn os_image_hash(sha256sum: &str) -> [u8; 32] {
    Sha256::digest(sha256sum).into()
}

/// `digest.txt`: the os_image_hash on one line.
pub fn digest_line(os_image_hash: &[u8; 32]) -> String {
    format!("{}\n", hex::encode(os_image_hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with coreutils: `printf abc | sha256sum` for both files, then `sha256sum` of that file.
    #[test]
    fn as_coreutils_does_it() {
        let abc = Sha256::digest("abc").into();
        let text = sha256sum(&[("ovmf.fd", abc), ("bzImage", abc)]);
        let line = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(text, format!("{line}  ovmf.fd\n{line}  bzImage\n"));
        assert_eq!(
            digest_line(&os_image_hash(&text)),
            "2d82b6ae75c7fe01db2f5062cec65f13518f0eec6ac2bb562160c966d37a8c86\n"
        );
    }
}
