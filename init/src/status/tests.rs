use std::collections::BTreeMap;

use casemate_measure::MrConfigId;
use serde_json::Value;

use super::*;

#[test]
fn a_frame_without_a_port_waits_and_the_next_one_counts_it_as_dropped() {
    let mut port = Port::default();
    port.send(Stage::Early, Reason::Entered, 0, [0; 32], Duration::from_millis(3));
    assert!(port.is_waiting());
    port.send(Stage::Mounts, Reason::Entered, 0, [0; 32], Duration::from_millis(4));
    assert_eq!((port.dropped, port.sequence), (1, 2));
}

#[test]
fn the_port_is_found_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let (class, dev) = (dir.path().join("class"), dir.path().join("dev"));
    for (port, name) in [("vport0p1", "other\n"), ("vport0p2", "casemate.status\n")] {
        std::fs::create_dir_all(class.join(port)).unwrap();
        std::fs::write(class.join(port).join("name"), name).unwrap();
    }
    std::fs::create_dir(&dev).unwrap();
    assert!(open_port(&class, &dev).is_none(), "no device node yet");
    std::fs::write(dev.join("vport0p2"), "").unwrap();
    assert!(open_port(&class, &dev).is_some());
}

/// Every path of a value with its type; an empty list or object has none below it.
fn paths(value: &Value, path: &str, found: &mut BTreeMap<String, &'static str>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let kind = match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, field)| paths(field, &below(name), found));
            "object"
        }
        Value::Array(items) => {
            items.iter().for_each(|item| paths(item, &format!("{path}[]"), found));
            return;
        }
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
    };
    found.insert(path.to_owned(), kind);
}

/// A document with everything in it.
fn full() -> Document {
    let text = String::new;
    let memory = Some(Memory { rss_kb: 2, pss_kb: 1 });
    let registers = LaunchRegisters { mrconfigid: MrConfigId([1; 48]), ..LaunchRegisters::ZERO };
    Document {
        version: 1,
        registers: Some(registers),
        network_namespace: Some(text()),
        identity: Some(Identity {
            name: text(),
            node: text(),
            app_id: text(),
            compose_hash: text(),
            instance_id: text(),
            tags: vec!["tag:a"],
        }),
        egress: Egress {
            mode: "internal-only",
            locked: true,
            counters: vec![Counter { name: text(), packets: 1, bytes: 2 }],
        },
        mesh: Mesh { ready: true, ports: vec![443], log_readers: 0 },
        time: crate::time::Status {
            server: Some(([192, 0, 2, 1], 4460).into()),
            offset_ms: Some(-1),
            error_ms: Some(1),
            last_sync: Some(1),
            ..crate::time::Status::default()
        },
        memory,
        processes: vec![Process {
            name: "web\u{1b}".to_owned(),
            pid: 1,
            network_namespace: Some(text()),
            state: "waiting",
            until_ms: Some(1),
            restarts: 0,
            last_exit: Some("status 0".to_owned()),
            health: Some(text()),
            oom_kills: 1,
            memory,
        }],
        logs: vec![Log { name: text(), counts: log::Counts { lines: 3, dropped: 1 } }],
        stages: vec![StageTime { stage: "mounts", entered_ms: 12 }],
        vpn: Vpn {
            mode: "tunnel",
            state: Some("running"),
            connected: true,
            node_key: Some(text()),
            name: Some(text()),
            addresses: vec![text()],
            peers: 3,
            direct: 2,
            derp_home: Some(999),
            tags: vec![text()],
            expected_tag: Some("tag:internal-only"),
            tag_missing: false,
        },
        ..Document::default()
    }
}

/// The same, with nothing in it that can be missing.
fn bare() -> Document {
    let full = full();
    let bare = |process| Process {
        network_namespace: None,
        until_ms: None,
        last_exit: None,
        health: None,
        memory: None,
        ..process
    };
    Document {
        registers: None,
        network_namespace: None,
        identity: None,
        time: crate::time::Status::default(),
        memory: None,
        vpn: Vpn {
            state: None,
            node_key: None,
            name: None,
            derp_home: None,
            expected_tag: None,
            ..full.vpn.clone()
        },
        processes: full.processes.clone().into_iter().map(bare).collect(),
        ..full
    }
}

#[test]
fn the_readme_and_the_document_are_the_same() {
    let of = |document: &Document| {
        let mut found = BTreeMap::new();
        paths(&serde_json::to_value(document).unwrap(), "", &mut found);
        found
    };
    let (full, bare) = (of(&full()), of(&bare()));
    let words = |(path, kind): (&String, &&str)| {
        let missing = if bare.get(path) == Some(&"null") { " or null" } else { "" };
        (path.clone(), format!("{kind}{missing}"))
    };
    // What only holds other paths needs no row of its own, unless it can be missing.
    let told = |(path, kind): &(String, String)| {
        kind != "object" && !path.is_empty() && !path.ends_with("[]")
            || (kind == "string" || kind == "number") && path.ends_with("[]")
    };
    let expected: BTreeMap<String, String> = full.iter().map(words).filter(told).collect();
    let rows = include_str!("README.md").lines().filter_map(|line| line.strip_prefix("| `"));
    let shown: BTreeMap<String, String> = rows
        .map(|row| {
            let (path, rest) = row.split_once("` | ").unwrap();
            (path.to_owned(), rest.split_once(" | ").unwrap().0.to_owned())
        })
        .collect();
    assert_eq!(shown, expected, "README.md on the left, the code on the right");
}

#[test]
fn the_file_is_whole_at_any_time_and_everybody_may_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("status.json");
    let mut document = full();
    document.store(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o644);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let reads = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) || reads == 0 {
                let text = std::fs::read(&path).unwrap();
                serde_json::from_slice::<Value>(&text).expect("half a document");
                reads += 1;
            }
            reads
        });
        for lines in 0..300 {
            document.logs = vec![document.logs[0].clone(); lines];
            if document.logs.is_empty() {
                document.logs = full().logs;
            }
            document.store(&path).unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        reader.join().unwrap()
    });
    assert!(reads > 0);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn counters_that_grow_by_being_told_are_no_news() {
    let (before, mut after) = (full(), full());
    after.logs[0].counts.lines += 1;
    after.status_port.sent += 1;
    assert!(after != before && !after.is_news_after(&before));
    after.processes[0].restarts += 1;
    assert!(after.is_news_after(&before));
}

#[test]
fn the_port_counts_what_it_took_and_what_it_gave_up() {
    let mut port = Port::new();
    port.send(Stage::Early, Reason::Entered, 0, [0; 32], Duration::ZERO);
    port.send(Stage::Mounts, Reason::Entered, 0, [0; 32], Duration::ZERO);
    assert_eq!(port.counts(), PortCounts { sent: 0, dropped: 1 }, "the second one waits");
    port.file = Some(tempfile::tempfile().unwrap());
    port.retry();
    assert_eq!(port.counts(), PortCounts { sent: 1, dropped: 1 });
}
