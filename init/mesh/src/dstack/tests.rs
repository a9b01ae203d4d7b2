//! What reaches the agent, for every way of asking. Without sockets: those are in `tests/proxy/dstack.rs`.

use std::collections::BTreeSet;

use hyper::http::Method;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::agent::say_tag;
use super::fields::Fields;
use super::permission::{ServiceDstack, ServiceQuote};
use casemate_verify::ratls::report_data_for_app as app_data;

use super::question::{Asked, Question, check_form};
use super::refusal::Refusal;

fn may(get_key: &[&str], quote: ServiceQuote) -> ServiceDstack {
    ServiceDstack { get_key: get_key.iter().map(|path| (*path).to_owned()).collect(), quote }
}

/// As [`super::Dstack`] does it, with the body read.
fn ask(
    permission: &ServiceDstack,
    method: &Method,
    target: &str,
    content_type: Option<&str>,
    body: &[u8],
) -> Result<Question, Refusal> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let asked = Asked::by(path, permission)?;
    check_form(method, query, content_type)?;
    let fields = if *method == Method::POST { Fields::from_json(body)? } else { Fields::from_query(query)? };
    Question::new(asked, fields, permission)
}

fn post(permission: &ServiceDstack, target: &str, body: &str) -> Result<Question, Refusal> {
    ask(permission, &Method::POST, target, Some("application/json"), body.as_bytes())
}

fn get(permission: &ServiceDstack, target: &str) -> Result<Question, Refusal> {
    ask(permission, &Method::GET, target, None, b"")
}

/// The one field of a question about a quote.
fn quoted_data(question: &Question) -> Vec<u8> {
    assert_eq!(question.method, "GetQuote");
    let body: Map<String, Value> = serde_json::from_slice(&question.body).unwrap();
    assert_eq!(body.keys().collect::<Vec<_>>(), ["report_data"]);
    hex::decode(body["report_data"].as_str().unwrap()).unwrap()
}

fn body(question: &Question) -> Value {
    serde_json::from_slice(&question.body).unwrap()
}

fn refused(asked: Result<Question, Refusal>, status: u16, text: &str) {
    let why = asked.unwrap_err();
    assert_eq!(why.status(), status, "{why}");
    assert!(why.to_string().contains(text), "{why}");
}

#[test]
fn app_data_are_hashed_under_dstacks_tag() {
    // printf 'app-data:\001\002' | sha512sum
    let expected = "68db06b565bc0618a6234e673725192a";
    let permission = may(&[], ServiceQuote::AppData);
    for asked in [
        post(&permission, "/GetQuote", r#"{"report_data":"0102"}"#),
        post(&permission, "/GetQuote?json", r#"{"report_data":"0x0102","other":[{}]}"#),
        post(&permission, "/GetQuote?report_data=ff", r#"{"report_d\u0061ta":"0102"}"#),
        get(&permission, "/GetQuote?report_data=0102"),
        get(&permission, "/GetQuote?json&report%5Fdata=0x01%302"),
    ] {
        let question = asked.unwrap();
        let data = quoted_data(&question);
        assert_eq!(hex::encode(&data[..16]), expected);
        assert_eq!((&data[..], question.tagged), (&app_data(&[1, 2])[..], Some(app_data(&[1, 2]))));
    }
    for nothing in ["", "{}", r#"{"report_data":null}"#, r#"{"report_data":""}"#, r#"{"report_data":"0x"}"#] {
        assert_eq!(quoted_data(&post(&permission, "/GetQuote", nothing).unwrap()), app_data(b""));
    }
    let long = "ab".repeat(30 << 10);
    let question = post(&permission, "/GetQuote", &format!(r#"{{"report_data":"{long}"}}"#)).unwrap();
    assert_eq!(quoted_data(&question), app_data(&[0xab; 30 << 10]));
}

#[test]
fn the_appliances_own_keys_are_nobodys() {
    for list in [&["*"][..], &["casemate/*"], &["casemate/vpn/x"]] {
        let permission = may(list, ServiceQuote::Raw);
        refused(post(&permission, "/GetKey", r#"{"path":"casemate/vpn/x"}"#), 403, "dstack.get_key");
    }
    post(&may(&["*"], ServiceQuote::None), "/GetKey", r#"{"path":"casemates"}"#).unwrap();
}

/// The report data that would speak as the appliance, and what they are the hash of.
#[test]
fn neither_binding_can_be_had_by_giving_it() {
    use sha2::{Digest as _, Sha512};
    let permission = may(&[], ServiceQuote::AppData);
    for content in [&b"ratls-cert:a key"[..], b"casemate-challenge:a nonce", b"kms-root-ca:a key"] {
        let binding: [u8; 64] = Sha512::digest(content).into();
        for given in [content, &binding, b"", &[b"app-data:", content].concat()] {
            let given = hex::encode(given);
            let spellings = [
                post(&permission, "/GetQuote", &json!({ "report_data": given }).to_string()),
                post(&permission, "/GetQuote", &json!({ "report_data": format!("0x{given}") }).to_string()),
                get(&permission, &format!("/GetQuote?report_data={given}")),
            ];
            for question in spellings {
                let question = question.unwrap();
                assert_ne!(quoted_data(&question), binding);
                assert!(question.tagged.is_some());
            }
        }
    }
}

#[test]
fn without_quotes_there_is_none_and_raw_is_as_given() {
    let none = may(&[], ServiceQuote::None);
    refused(get(&none, "/GetQuote?report_data=00"), 403, "GetQuote: this service's dstack.quote is \"none\"");
    // The second look is at the same permission.
    let fields = || Fields::from_query("report_data=00").unwrap();
    refused(Question::new(Asked::Quote, fields(), &none), 403, "dstack.quote is \"none\"");

    let raw = may(&[], ServiceQuote::Raw);
    let question = get(&raw, "/GetQuote?report_data=0xAB").unwrap();
    assert_eq!((quoted_data(&question), question.tagged), (vec![0xab], None));
    // More than 64 bytes are refused by the agent, in its words.
    let long = get(&raw, &format!("/GetQuote?report_data={}", "00".repeat(65))).unwrap();
    assert_eq!(quoted_data(&long).len(), 65);
}

#[test]
fn certificates_are_for_those_who_may_speak_as_the_appliance() {
    for quote in [ServiceQuote::None, ServiceQuote::AppData] {
        let permission = may(&["*"], quote);
        for body in ["{}", r#"{"usage_ra_tls":false}"#, r#"{"usage_ra_tls":true}"#, "not even JSON"] {
            let text = format!("GetTlsKey: this service's dstack.quote is \"{}\"", quote.word());
            refused(post(&permission, "/GetTlsKey", body), 403, &text);
        }
    }
    let raw = may(&[], ServiceQuote::Raw);
    let given = r#"{"subject":"x","alt_names":["a","b"],"usage_ra_tls":true,"not_after":7,"usage_server_auth":null,"more":1}"#;
    let question = post(&raw, "/GetTlsKey", given).unwrap();
    let expected = json!({ "subject": "x", "alt_names": ["a", "b"], "usage_ra_tls": true, "not_after": 7 });
    assert_eq!((question.method, body(&question), question.tagged), ("GetTlsKey", expected.clone(), None));
    let question =
        get(&raw, "/GetTlsKey?subject=x&alt_names[]=a&alt_names[1]=b&usage_ra_tls=true&not_after=7").unwrap();
    assert_eq!(body(&question), expected);
    let all = json!({
        "subject": "s", "alt_names": [], "usage_ra_tls": false, "usage_server_auth": true, "usage_client_auth": true,
        "not_before": 1, "not_after": 2, "with_app_info": true,
    });
    assert_eq!(body(&post(&raw, "/GetTlsKey", &all.to_string()).unwrap()), all);
}

#[test]
fn keys_are_for_the_paths_of_the_list() {
    let permission = may(&["web/*", "db"], ServiceQuote::None);
    let key = |path: &str| post(&permission, "/GetKey", &json!({ "path": path }).to_string());
    for path in ["web/", "web/a/../b", "web/*", "db"] {
        let expected = json!({ "path": path, "purpose": "", "algorithm": "" });
        assert_eq!(body(&key(path).unwrap()), expected);
    }
    for path in ["", "web", "Web/a", "db/", "dbx", " db", "/web/", "vms", "*"] {
        refused(key(path), 403, "not in this service's dstack.get_key");
    }
    refused(post(&permission, "/GetKey", ""), 403, "path \"\": not in");
    // What is judged is what is asked for: decoded, and only once.
    let question = get(&permission, "/GetKey?path=%77eb/a%252f+b&purpose=p&algorithm=ed25519").unwrap();
    assert_eq!(body(&question), json!({ "path": "web/a%2f b", "purpose": "p", "algorithm": "ed25519" }));
    refused(get(&permission, "/GetKey?path=web%252f"), 403, "not in");
    let long = post(&permission, "/GetKey", &json!({ "path": "x\n".repeat(999) }).to_string());
    let text = long.unwrap_err().to_string();
    assert!(text.len() < 200 && !text.contains('\n') && text.contains("(1998 bytes)"), "{text}");

    let all = may(&["*"], ServiceQuote::None);
    assert!(post(&all, "/GetKey", "{}").is_ok());
    assert!(post(&may(&[], ServiceQuote::Raw), "/GetKey", r#"{"path":"a"}"#).is_err());
}

#[test]
fn the_methods_are_these() {
    let permission = may(&["*"], ServiceQuote::Raw);
    for path in ["/Version", "/Info", "/GetKey", "/GetQuote", "/GetTlsKey"] {
        assert_eq!(format!("/{}", get(&permission, path).unwrap().method), path);
    }
    for path in ["/Info", "/Version"] {
        let question =
            post(&may(&[], ServiceQuote::None), path, r#"{"report_data":"00","path":"x"}"#).unwrap();
        assert_eq!(&question.body[..], b"{}");
    }
    for path in [
        "/",
        "/Attest",
        "/Sign",
        "/Verify",
        "/EmitEvent",
        "/GpuInfo",
        "/prpc/GetQuote",
        "/prpc/Tappd.TdxQuote",
        "//GetQuote",
        "/GetQuote/",
        "/getquote",
        "/%47etQuote",
        "/GetQuote%00",
        "/GetQuote;x",
        "/../GetQuote",
        "*",
    ] {
        refused(get(&permission, path), 403, "expected Version, Info, GetKey, GetQuote or GetTlsKey");
    }
    refused(get(&permission, "/Sign"), 403, "\"Sign\": ");
}

#[test]
fn the_form_is_json() {
    let permission = may(&[], ServiceQuote::AppData);
    let asked = |method: Method, target, content_type| ask(&permission, &method, target, content_type, b"{}");
    for (target, content_type) in [
        ("/GetQuote?json", None),
        ("/GetQuote?a&json=1", Some("text/plain")),
        ("/GetQuote", Some("Application/JSON; charset=utf-8")),
    ] {
        assert!(asked(Method::POST, target, content_type).is_ok(), "{target} {content_type:?}");
    }
    // Else the bytes would be protobuf, which is not read here.
    for content_type in [None, Some("application/octet-stream"), Some("application/jsonlines")] {
        refused(asked(Method::POST, "/GetQuote?jsonp", content_type), 400, "protobuf form is not offered");
    }
    for method in [Method::PUT, Method::HEAD, Method::OPTIONS, Method::from_bytes(b"QUOTE").unwrap()] {
        refused(asked(method, "/GetQuote?json", None), 400, "expected GET or POST");
    }
}

#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    let permission = may(&["web/*"], ServiceQuote::AppData);
    for (target, text, error) in [
        ("/GetQuote", r#"{"report_data":"00","report_data":"01"}"#, "duplicate field"),
        ("/GetQuote", r#"{"report_data":"00","report_d\u0061ta":null}"#, "duplicate field"),
        ("/GetKey", r#"{"path":"web/a","path":"vms"}"#, "duplicate field"),
        ("/GetQuote", r#"["00"]"#, "expected a JSON object"),
        ("/GetQuote", r#""00""#, "expected a JSON object"),
        ("/GetQuote", "null", "expected a JSON object"),
        ("/GetQuote", r#"{"report_data":["00"]}"#, "invalid type"),
        ("/GetQuote", r#"{"report_data":{"0":1}}"#, "invalid type"),
        ("/GetQuote", r#"{"report_data":0}"#, "invalid type"),
        ("/GetQuote", r#"{"report_data":"00"} {}"#, "trailing"),
        ("/GetQuote", "{", "EOF"),
        ("/GetQuote", r#"{"report_data":"0"}"#, "even number of hex digits"),
        ("/GetQuote", r#"{"report_data":"0X00"}"#, "even number of hex digits"),
        ("/GetQuote", r#"{"report_data":"0x0x00"}"#, "even number of hex digits"),
        ("/GetQuote", r#"{"report_data":"zz"}"#, "found \"zz\""),
    ] {
        refused(post(&permission, target, text), 400, error);
    }
    let raw = may(&[], ServiceQuote::Raw);
    let names = vec!["\"a\""; 129].join(",");
    refused(post(&raw, "/GetTlsKey", &format!(r#"{{"alt_names":[{names}]}}"#)), 400, "at most 128 entries");
    refused(get(&raw, &format!("/GetTlsKey?{}", "alt_names[]=&".repeat(129))), 400, "at most 128 entries");
    for (query, error) in [
        ("report_data=00&report_data=01", "\"report_data\": given twice"),
        ("report_data=00&report%5fdata=01", "\"report_data\": given twice"),
        ("alt_names=a&alt_names[]=b", "\"alt_names[]\": given twice"),
        ("alt_names[]=b&alt_names=a", "\"alt_names\": given twice"),
        ("report_data=%4", "two hex digits after %"),
        ("report_data=%+1", "two hex digits after %"),
        ("report_data=%ff", "expected UTF-8"),
        ("usage_ra_tls=yes", "field `usage_ra_tls`: expected true or false, found \"yes\""),
        ("not_after=-1", "field `not_after`: expected a whole number"),
    ] {
        refused(get(&raw, &format!("/GetTlsKey?{query}")), 400, error);
    }
    let long =
        post(&permission, "/GetQuote", &format!(r#"{{"report_data":{{"{}":0}}}}"#, "x".repeat(60_000)));
    assert!(long.unwrap_err().to_string().len() < 200);
    let long = post(&raw, "/GetTlsKey", &format!(r#"{{"not_after":"{}"}}"#, "x".repeat(60_000)));
    assert!(long.unwrap_err().to_string().len() < 200, "the parser repeats what it found");
}

#[test]
fn the_answer_says_what_was_quoted() {
    let report_data = app_data(b"x");
    let quote =
        json!({ "quote": "00", "event_log": "[]", "report_data": hex::encode(report_data), "new": 1 });
    let answer = say_tag(quote.as_object().unwrap().clone(), report_data).unwrap();
    let mut expected = quote.clone();
    expected["report_data_tag"] = json!("app-data");
    assert_eq!(serde_json::from_slice::<Value>(&answer).unwrap(), expected);
    for wrong in [json!({}), json!({ "report_data": "00" }), json!({ "report_data": [] })] {
        let refused = say_tag(wrong.as_object().unwrap().clone(), report_data).unwrap_err();
        assert_eq!(refused.status(), 502);
    }
}

/// Spellings of one field, and of several.
fn field() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        4 => Just("report_data".to_owned()),
        1 => Just(r"report_d\u0061ta".to_owned()),
        1 => Just("Report_Data".to_owned()),
        1 => Just("report_data ".to_owned()),
        1 => "[a-z_]{1,12}",
    ];
    let hexes = prop::collection::vec(any::<u8>(), 0..80).prop_map(hex::encode);
    let value = prop_oneof![
        6 => hexes.clone().prop_map(|text| format!("\"{text}\"")),
        3 => hexes.prop_map(|text| format!("\"0x{}\"", text.to_uppercase())),
        1 => Just("null".to_owned()),
        1 => Just("\"\"".to_owned()),
        1 => Just("[\"00\"]".to_owned()),
        1 => Just("{\"report_data\":\"00\"}".to_owned()),
        1 => "\\PC{0,20}".prop_map(|text| Value::from(text).to_string()),
        1 => any::<u64>().prop_map(|number| number.to_string()),
    ];
    (name, value).prop_map(|(name, value)| format!("\"{name}\":{value}"))
}

fn object() -> impl Strategy<Value = Vec<u8>> {
    let fields = prop::collection::vec(field(), 0..4).prop_map(|fields| format!("{{{}}}", fields.join(",")));
    prop_oneof![
        8 => fields.prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..64),
    ]
}

fn query() -> impl Strategy<Value = String> {
    let value = prop_oneof!["[0-9a-f]{0,40}", "0x[0-9A-F]{0,40}", "(%[0-9a-f]{2}|[0-9a-z]){0,40}"];
    let name = prop_oneof![
        4 => Just("report_data"), 1 => Just("report%5fdata"), 1 => Just("report_data[]"), 1 => Just("json"), 1 => Just("x"),
    ];
    let pair = (name, value).prop_map(|(name, value)| format!("{name}={value}"));
    prop::collection::vec(pair, 0..4).prop_map(|pairs| pairs.join("&"))
}

fn target() -> impl Strategy<Value = &'static str> {
    let mut paths = BTreeSet::from(["/Attest", "/prpc/GetQuote", "/getquote", "/", "/GetQuote/"]);
    paths.extend(["/Version", "/Info", "/GetKey", "/GetTlsKey"]);
    prop_oneof![6 => Just("/GetQuote"), 4 => prop::sample::select(paths.into_iter().collect::<Vec<_>>())]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// No input makes the agent quote anything but a hash that begins with our tag, and nothing else reaches it that
    /// would be evidence: with `app-data` there is no other question that quotes.
    #[test]
    fn what_reaches_the_agent_is_tagged(
        path in target(),
        query in query(),
        body in object(),
        is_post in any::<bool>(),
        is_json in prop::bool::weighted(0.8),
    ) {
        let permission = may(&["*"], ServiceQuote::AppData);
        let method = if is_post { Method::POST } else { Method::GET };
        let content_type = is_json.then_some("application/json");
        let Ok(question) = ask(&permission, &method, &format!("{path}?{query}"), content_type, &body) else {
            return Ok(());
        };
        prop_assert!(["Version", "Info", "GetKey", "GetQuote"].contains(&question.method));
        prop_assert_eq!(question.method == "GetQuote", question.tagged.is_some());
        let Some(tagged) = question.tagged else { return Ok(()) };
        let data = quoted_data(&question);
        prop_assert_eq!(&data[..], &tagged[..]);
        // The preimage, read by other means than the code's: the one value that was given.
        let given = if is_post {
            let text = if body.is_empty() { &b"{}"[..] } else { &body[..] };
            let value: Value = serde_json::from_slice(text).unwrap();
            value.get("report_data").and_then(Value::as_str).unwrap_or_default().to_owned()
        } else {
            let given = query.split('&').find_map(|pair| {
                pair.strip_prefix("report_data=").or_else(|| pair.strip_prefix("report%5fdata="))
            });
            percent_decoded(given.unwrap_or_default())
        };
        let digits = given.strip_prefix("0x").unwrap_or(&given).to_lowercase();
        prop_assert_eq!(data, app_data(&hex::decode(digits).unwrap()));
    }

    /// The judge's path is the agent's path.
    #[test]
    fn a_key_that_reaches_the_agent_is_in_the_list(path in "\\PC{0,8}|web/\\PC{0,8}|db", body in object(), twice in any::<bool>()) {
        let permission = may(&["web/*", "db"], ServiceQuote::None);
        let path = json!({ "path": path }).to_string();
        let more = String::from_utf8_lossy(&body).into_owned();
        let text = if twice { format!("{},{}", path.trim_end_matches('}'), more.trim_start_matches('{')) } else { path };
        if let Ok(question) = post(&permission, "/GetKey", &text) {
            let asked: Map<String, Value> = serde_json::from_slice(&question.body).unwrap();
            let path = asked["path"].as_str().unwrap();
            prop_assert!(path.starts_with("web/") || path == "db", "{}", path);
        }
    }
}

fn percent_decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).unwrap()
}
