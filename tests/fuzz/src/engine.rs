//! libFuzzer's own binary: `casemate-fuzz` builds it with coverage counters and starts it, one process per target.
#![no_main]

use std::sync::OnceLock;

use casemate_fuzz::Target;
use libfuzzer_sys::fuzz_target;

/// Which target to run.
const NAME: &str = "CASEMATE_FUZZ_TARGET";

fuzz_target!(|input: &[u8]| {
    static TARGET: OnceLock<&Target> = OnceLock::new();
    let target = TARGET.get_or_init(|| {
        let name = std::env::var(NAME).unwrap_or_default();
        Target::of_name(&name).unwrap_or_else(|| panic!("{NAME}: expected a target, found {name:?}"))
    });
    (target.run)(input);
});
