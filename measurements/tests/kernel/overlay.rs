use casemate_measure::tdx::overlay::{Overlay, View};
use proptest::prelude::*;

fn overlay(offset: usize, bytes: &[u8]) -> Overlay {
    Overlay { offset, bytes: bytes.to_vec() }
}

#[test]
fn what_does_not_fit_is_no_view() {
    let file = [0; 8];
    for bad in
        [vec![overlay(7, b"ab")], vec![overlay(usize::MAX, b"a")], vec![overlay(2, b"ab"), overlay(3, b"c")]]
    {
        assert_eq!(View::new(&file, bad), None);
    }
    let view = View::new(&file, vec![overlay(4, b"c"), overlay(2, b"ab")]).unwrap();
    assert_eq!(view.array(1), Some(*b"\0abc\0"));
    assert_eq!((view.array::<9>(0), view.plain(5..8), view.plain(1..3)), (None, Some(&[0; 3][..]), None));
}

proptest! {
    /// Against a copy that was really changed.
    #[test]
    fn pieces_are_the_changed_file(
        file in proptest::collection::vec(any::<u8>(), 0..64),
        overlays in proptest::collection::vec((0_usize..64, proptest::collection::vec(any::<u8>(), 0..6)), 0..4),
        start in 0_usize..70,
        length in 0_usize..70,
    ) {
        let mut changed = file.clone();
        for (offset, bytes) in &overlays {
            if let Some(place) = changed.get_mut(*offset..offset + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        }
        let list = overlays.iter().map(|(offset, bytes)| overlay(*offset, bytes)).collect();
        if let Some(view) = View::new(&file, list) {
            let pieces = view.pieces(start..start + length).map(|pieces| pieces.collect::<Vec<_>>().concat());
            prop_assert_eq!(pieces.as_deref(), changed.get(start..start + length));
            let array = view.array::<3>(start);
            prop_assert_eq!(array.as_ref().map(<[u8; 3]>::as_slice), changed.get(start..start + 3));
        }
    }
}
