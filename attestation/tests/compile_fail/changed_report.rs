//! A genuine quote, changed in place.

use casemate_verify::AuthenticQuote;
use casemate_verify::quote::TdReport;

pub fn forge(quote: &mut AuthenticQuote, report: TdReport) {
    quote.report = report;
}
