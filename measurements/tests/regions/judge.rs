//! What was seen of each region, against its row.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Display};

use casemate_measure::tdx::Expected;
use casemate_measure::tdx::bzimage::KernelSeen;
use casemate_measure::tdx::region::{Region, Shown};

pub(crate) const BOTH: [KernelSeen; 2] = [KernelSeen::AsFile, KernelSeen::Patched];

/// Keeps count, and fails at the first change that the table does not allow.
#[derive(Debug, Default)]
pub(crate) struct Judge {
    changed: BTreeMap<(Region, bool), BTreeSet<Shown>>,
    refused: BTreeSet<Region>,
}

impl Judge {
    /// After one change of a region.
    pub(crate) fn change<E: Display>(
        &mut self,
        (region, seen): (Region, KernelSeen),
        before: &Expected,
        after: Result<Expected, E>,
        what: &dyn Debug,
    ) {
        let row = region.row();
        let after = match after {
            Ok(after) => after,
            Err(error) => {
                assert!(row.refused, "{region:?}, {what:?}: refused, which the table does not say: {error}");
                self.refused.insert(region);
                return;
            }
        };
        let changed = Shown::changed(before, &after);
        let effect = row.effect(seen);
        let as_said = effect.allows(&changed);
        assert!(as_said, "{region:?} ({seen:?}), {what:?}: the table says {effect}, found {changed:?}");
        // dstack's names for the whole follow its registers, and nothing else.
        assert_eq!(before.mr_aggregated != after.mr_aggregated, !changed.is_empty(), "{region:?}, {what:?}");
        self.changed.entry((region, seen == KernelSeen::Patched)).or_default().extend(changed);
    }

    /// That all of a row was seen, for each of these regions.
    pub(crate) fn verdict(&self, regions: &[Region]) {
        for &region in regions {
            let row = region.row();
            for seen in BOTH {
                let changed = self.changed.get(&(region, seen == KernelSeen::Patched));
                let changed = changed.unwrap_or_else(|| panic!("{region:?} ({seen:?}): nothing was tried"));
                assert_eq!(*changed, row.effect(seen).registers(), "{region:?} ({seen:?}): over all changes");
            }
            let refused = self.refused.contains(&region);
            assert_eq!(refused, row.refused, "{region:?}: whether a change was refused");
        }
    }
}
