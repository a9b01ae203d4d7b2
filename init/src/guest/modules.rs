//! Kernel modules, in the order that the image builder worked out.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use casemate_measure::manifest::{MODULES_DIR, MODULES_ORDER_PATH, ModuleGroup};
use casemate_measure::status::Reason;

use crate::boot::Failure;
use crate::sys;

/// Loads a group. A TEE driver without its TEE (`ENODEV`) is an answer that the TEE stage judges, not a failure here.
pub(super) fn load(root: &Path, group: ModuleGroup) -> Result<(), Failure> {
    let path = root.join(MODULES_ORDER_PATH);
    let order = fs::read_to_string(&path)
        .map_err(|error| Failure::errno(Reason::ModuleFailed, path.display(), &error))?;
    for name in in_group(&order, group)? {
        let module = root.join(MODULES_DIR).join(name);
        let loaded = File::open(&module).and_then(sys::finit_module);
        match loaded {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            Err(error) if group == ModuleGroup::Tee && is_absent(&error) => {}
            Err(error) => return Err(Failure::errno(Reason::ModuleFailed, module.display(), &error)),
        }
    }
    Ok(())
}

fn is_absent(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENODEV)
}

fn in_group(order: &str, group: ModuleGroup) -> Result<Vec<&str>, Failure> {
    let mut names = Vec::new();
    for line in order.lines() {
        let parsed =
            line.split_once(' ').and_then(|(word, file)| Some((ModuleGroup::from_word(word)?, file)));
        match parsed {
            Some((found, file)) if found == group => names.push(file),
            Some(_) => {}
            None => {
                return Err(Failure::new(
                    Reason::ModuleFailed,
                    format!("/{MODULES_ORDER_PATH}: expected \"tee|share|lock|late FILE\", found {line:?}"),
                ));
            }
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_kept_within_a_group() {
        let order = "tee a.ko.xz\nlock b.ko.xz\nlock c.ko.xz\nlate d.ko.xz\n";
        assert_eq!(in_group(order, ModuleGroup::Lock).unwrap(), ["b.ko.xz", "c.ko.xz"]);
        let error = in_group("late d.ko.xz\nsoon e.ko.xz\n", ModuleGroup::Late).unwrap_err();
        assert!(error.text.contains("soon e.ko.xz"), "{error}");
    }
}
