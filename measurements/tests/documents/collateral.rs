//! `casemate.collateral`: one server, at one address.

use crate::support::{changed, parse, refusal};
use serde_json::json;

#[test]
fn a_collateral_server_is_one_url_at_one_address() {
    let at = "/casemate/collateral";
    let pccs = |url: &str, address: &str| json!({ "pccs": { "url": url, "address": address } });
    let url = "casemate.collateral.pccs.url: expected an https:// URL without user, query or fragment, found";
    for bad in [
        "http://a.example",
        "https://u@a.example",
        "https://a.example/?q",
        "https://a.example/#f",
        "https://",
    ] {
        let found = refusal(&changed(&[(at, pccs(bad, "192.0.2.8:443"))]));
        assert_eq!(found, format!("doc.json: {url} \"{bad}\""));
    }
    let address = "casemate.collateral.pccs.address: expected";
    for (url, to, expected) in [
        ("https://a.example", "192.0.2.8:8081", "the URL's port, 443"),
        ("https://a.example:8081", "192.0.2.8:443", "the URL's port, 8081"),
        ("https://a.example", "127.0.0.1:443", "IP:PORT of one machine, outside 198.18.0.0/15"),
    ] {
        let found = refusal(&changed(&[(at, pccs(url, to))]));
        assert_eq!(found, format!("doc.json: {address} {expected}, found \"{to}\""));
    }
    let good = changed(&[(at, pccs("https://a.example:8081/x/", "192.0.2.8:8081"))]);
    let collateral = parse(&good).unwrap().section().collateral.clone();
    assert_eq!(collateral.max_age_days, 30);
    let pccs = collateral.pccs.unwrap();
    assert_eq!(
        (pccs.url.as_str(), pccs.address),
        ("https://a.example:8081/x", "192.0.2.8:8081".parse().unwrap())
    );
}
