//! Real quotes, one bit of every byte.

use casemate_verify::Class;
use casemate_verify::quote::TdReport;

use crate::flips::{Tally, every_byte};
use crate::layout;
use crate::real::{OUTDATED, Real, VERSION_4, VERSION_5, bare};

fn flip(real: &Real) -> Tally {
    let collateral = real.collateral();
    let judge = |quote: &[u8]| real.verify(quote, &collateral);
    let plain = |quote: &[u8]| {
        // Also what both accept must be read alike.
        let report = bare(quote, real.collateral, real.valid);
        report == judge(quote).ok().map(|quote| *quote.report())
    };
    every_byte(real.name, real.quote, &layout::quote(real.quote), judge, plain)
}

#[test]
fn version_4() {
    let tally = flip(&VERSION_4);
    assert!(tally.refused[&Class::Signature] > 1500, "{tally:?}");
}

#[test]
fn version_5() {
    let tally = flip(&VERSION_5);
    assert!(tally.refused[&Class::Signature] > 1800, "{tally:?}");
}

/// A quote that is refused for its platform, after its whole signature chain was verified: each flip is then refused for what
/// was flipped, and the genuine one for `because`.
fn flip_refused(name: &str, quote: &[u8], real: &Real, class: Class, because: &str) {
    let collateral = real.collateral();
    let judge = |quote: &[u8]| match real.verify(quote, &collateral) {
        Err(error) if error.to_string().contains(because) => {
            assert_eq!(error.class(), class);
            // As good as it gets.
            Ok(TdReport::of_quote(quote).unwrap())
        }
        Err(error) => Err(error),
        Ok(_) => panic!("{name} verified"),
    };
    let tally = every_byte(name, quote, &layout::quote(quote), judge, |_| true);
    assert!(tally.refused[&Class::Signature] > 1500, "{tally:?}");
}

/// No level of its collateral's TCB info is as low as this platform.
#[test]
fn of_an_outdated_platform() {
    flip_refused(OUTDATED.name, OUTDATED.quote, &OUTDATED, Class::Tcb, "No matching TCB level");
}

/// The prod quote, whose collateral nobody published: that of another platform is compared last.
#[test]
fn of_a_platform_without_collateral() {
    const QUOTE: &[u8] = include_bytes!("../fixtures/tdx_prod_quote_SPR_E4");
    flip_refused("tdx_prod_quote_SPR_E4", QUOTE, &VERSION_4, Class::Collateral, "Fmspc mismatch");
}
