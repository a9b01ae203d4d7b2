//! A file as somebody else sees it: a few bytes are others, and nobody copies the rest for that.

use std::ops::Range;

/// Bytes that replace those at an offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// Where in the file.
    pub offset: usize,
    /// What is there instead.
    pub bytes: Vec<u8>,
}

/// A file with overlays, in ascending order and clear of each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View<'a> {
    file: &'a [u8],
    overlays: Vec<Overlay>,
}

impl<'a> From<&'a [u8]> for View<'a> {
    /// The file as it is.
    fn from(file: &'a [u8]) -> Self {
        Self { file, overlays: Vec::new() }
    }
}

impl<'a> View<'a> {
    /// The file with these bytes in it. `None` if an overlay is not inside of the file or touches another one's bytes.
    pub fn new(file: &'a [u8], mut overlays: Vec<Overlay>) -> Option<Self> {
        overlays.sort_by_key(|overlay| overlay.offset);
        let mut free = 0;
        for overlay in &overlays {
            let end = overlay.offset.checked_add(overlay.bytes.len())?;
            if overlay.offset < free || end > file.len() {
                return None;
            }
            free = end;
        }
        Some(Self { file, overlays })
    }

    /// What is different from the file.
    pub fn overlays(&self) -> &[Overlay] {
        &self.overlays
    }

    /// How long the file is.
    pub const fn len(&self) -> usize {
        self.file.len()
    }

    /// Whether it has no byte.
    pub const fn is_empty(&self) -> bool {
        self.file.is_empty()
    }

    /// The bytes of a range, in pieces that are in the file or in an overlay; `None` if it is not inside of the file.
    pub fn pieces(&self, range: Range<usize>) -> Option<impl Iterator<Item = &[u8]>> {
        self.file.get(range.clone())?;
        let mut cuts = vec![range.start];
        for overlay in &self.overlays {
            let end = overlay.offset.saturating_add(overlay.bytes.len());
            cuts.extend([overlay.offset, end].into_iter().filter(|cut| range.contains(cut)));
        }
        let ends: Vec<usize> = cuts.iter().copied().skip(1).chain([range.end]).collect();
        Some(cuts.into_iter().zip(ends).filter_map(|(start, end)| self.piece(start, end)))
    }

    /// Some bytes that no cut goes through.
    fn piece(&self, start: usize, end: usize) -> Option<&[u8]> {
        for overlay in &self.overlays {
            if let Some(at) = start.checked_sub(overlay.offset).filter(|at| *at < overlay.bytes.len()) {
                return overlay.bytes.get(at..end.checked_sub(overlay.offset)?);
            }
        }
        self.file.get(start..end)
    }

    /// So many bytes at an offset.
    pub fn array<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let mut array = [0; N];
        let mut left = array.as_mut_slice();
        for piece in self.pieces(offset..offset.checked_add(N)?)? {
            let (head, tail) = left.split_at_mut_checked(piece.len())?;
            head.copy_from_slice(piece);
            left = tail;
        }
        Some(array)
    }

    /// A range of the file; `None` if it is not inside of it, or if an overlay changes something there.
    pub fn plain(&self, range: Range<usize>) -> Option<&'a [u8]> {
        let touches = |overlay: &Overlay| {
            overlay.offset < range.end && overlay.offset.saturating_add(overlay.bytes.len()) > range.start
        };
        if self.overlays.iter().any(touches) {
            return None;
        }
        self.file.get(range)
    }
}
