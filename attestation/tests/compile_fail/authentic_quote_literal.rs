//! A genuine quote with another report.

use casemate_verify::AuthenticQuote;
use casemate_verify::quote::TdReport;

pub fn forge(quote: AuthenticQuote, report: TdReport) -> AuthenticQuote {
    AuthenticQuote { report, ..quote }
}
