//! `casemate-measure`: placeholder until the command lands.
fn main() {}
