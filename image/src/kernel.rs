//! The kernel image: that it is one, and which release (`Documentation/arch/x86/boot.rst`).

use crate::error::{ImageError, Result};

/// The boot protocol's magic and where it lies.
const MAGIC: (usize, &[u8]) = (0x202, b"HdrS");
/// `kernel_version`: a pointer, less 0x200, to the version string.
const VERSION_POINTER: usize = 0x20e;

/// The release of a bzImage, such as `7.3.4+deb13-cloud-amd64`.
///
/// # Errors
/// If it is no bzImage.
pub(crate) fn release<'a>(name: &str, image: &'a [u8]) -> Result<&'a str> {
    let wrong = |field: &str, expected: &str| ImageError::form(name, field, expected, "something else");
    if !image.get(MAGIC.0..).is_some_and(|rest| rest.starts_with(MAGIC.1)) {
        return Err(wrong("boot header", "the magic of an x86 bzImage"));
    }
    let version = || -> Option<&'a str> {
        let pointer = u16::from_le_bytes(*image.get(VERSION_POINTER..)?.first_chunk()?);
        let text = image.get(usize::from(pointer).checked_add(0x200)?..)?.split(|byte| *byte == 0).next()?;
        std::str::from_utf8(text).ok()?.split(' ').next()
    };
    version().filter(|text| !text.is_empty()).ok_or_else(|| wrong("boot header", "a version string"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The smallest thing that looks like a bzImage of that release.
    pub(crate) fn bzimage(release: &str) -> Vec<u8> {
        let mut image = vec![0; 0x400];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
        image[0x300..0x300 + release.len()].copy_from_slice(release.as_bytes());
        image[0x300 + release.len()] = b' ';
        image
    }

    #[test]
    fn the_release_is_read() {
        assert_eq!(release("vmlinuz", &bzimage("7.3.4+deb13")).unwrap(), "7.3.4+deb13");
        assert!(release("vmlinuz", b"\x7fELF").is_err());
    }
}
