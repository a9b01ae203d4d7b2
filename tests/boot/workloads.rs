//! Workloads that misbehave, all in one machine, beside one that does not.

use std::time::{Duration, Instant};

use casemate_measure::status::{Reason, Stage};
use serde_json::Value;

use crate::console::process;
use crate::images::Image;
use crate::machine::{Machine, Options, qemu};

/// `web` says every second whether it answers itself.
const DOCUMENT: &str = r#"{
  "manifest_version": 2, "name": "boot-workloads", "runner": "casemate", "key_provider": "none", "secure_time": false,
  "casemate": {
    "version": 1, "role": "node", "node": { "name": "workloads", "type": "test" },
    "network": { "mode": "dhcp" }, "vpn": { "mode": "direct" }, "egress": { "mode": "internal-only" },
    "mesh": {
      "backends": [{ "listen": 443, "kind": "http", "to": "web:8000", "allow": ["any"] }],
      "verify": "quote", "images": ["same"]
    },
    "services": [
      {
        "name": "web", "rootfs": "web", "uid": 1000, "ports": [8000], "restart": "always",
        "exec": ["/bin/sh", "-c",
          "httpd -f -p 8000 -h /www & while sleep 1; do wget -q -O /dev/null http://127.0.0.1:8000/ && echo answers || echo silent; done"]
      },
      { "name": "crash", "rootfs": "web", "uid": 1001, "restart": "always", "exec": ["/bin/sh", "-c", "exit 1"] },
      {
        "name": "forks", "rootfs": "web", "uid": 1002, "restart": "always", "pids_max": 32,
        "exec": ["/bin/sh", "-c", "bomb() { bomb & bomb & wait; }; while :; do (bomb); done"]
      },
      {
        "name": "stubborn", "rootfs": "web", "uid": 1003, "restart": "always",
        "exec": ["/bin/sh", "-c", "trap 'echo no' TERM; while :; do sleep 1; done"]
      },
      { "name": "done", "rootfs": "web", "uid": 1004, "restart": "on-failure", "exec": ["/bin/true"] }
    ]
  }
}"#;

/// How often crash is started again until the test ends; the nth time after 2^(n-1) s.
const RESTARTS: u64 = 3;
/// Status documents come once a second.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// Between SIGTERM and `cgroup.kill` (init/README.md), in ms of guest time.
const GRACE_MS: u64 = 5000;

#[test]
fn that_misbehave_harm_nobody_else() {
    if !qemu() {
        return;
    }
    let machine = Machine::switch_on(&Image::of("workloads", DOCUMENT), Options::default());
    machine.wait_ready();
    let restarts = |status: &Value| process(status, "crash")["restarts"].as_u64().unwrap();
    let first = machine.wait_status("crash is started again", |status| restarts(status) >= 1);
    let begin = Instant::now();
    let later = machine.wait_status("crash is started again and again", |status| {
        machine.wait_healthy();
        restarts(status) >= RESTARTS
    });
    let waited: u64 = (restarts(&first)..RESTARTS).map(|before| 1 << before).sum();
    assert!(waited > 0, "it is started again without a pause: {first}");
    assert!(begin.elapsed() + REPORT_EVERY >= Duration::from_secs(waited), "{first}\n{later}");
    assert_eq!(process(&later, "crash")["last_exit"], "status 1", "{later}");
    assert_eq!(process(&later, "done")["last_exit"], "status 0", "{later}");
    assert_eq!(process(&later, "done")["restarts"], 0, "{later}");
    assert_eq!(process(&later, "done")["pid"], 0, "{later}");
    for name in ["web", "stubborn", "agent", "mesh", "dhcp"] {
        let (before, after) = (process(&first, name), process(&later, name));
        assert_eq!(after["restarts"], 0, "{name}: {later}");
        assert_eq!(after["pid"], before["pid"], "{name}: {later}");
    }
    assert_eq!(later["egress"]["locked"], true, "{later}");

    let ended = machine.power_off();
    ended.assert_orderly();
    // From its first answer on it never failed to answer itself.
    let web = ended.console.iter().filter_map(|line| line.strip_prefix("web: "));
    let web: Vec<&str> = web.skip_while(|said| *said != "answers").collect();
    assert!(web.len() >= 5 && web.iter().all(|said| *said == "answers"), "{ended}");
    let limited = |line: &String| line.starts_with("forks: ") && line.contains("can't fork");
    assert!(ended.console.iter().any(limited), "its limit was never reached: {ended}");
    assert!(ended.console_says("stubborn: no"), "it was not asked to end: {ended}");
    assert!(ended.console_says("stubborn ended with signal 9"), "{ended}");
    let last = ended.statuses.last().unwrap();
    assert_eq!(last["stage"], "shutdown", "{last}");
    assert_eq!(
        process(last, "stubborn")["restarts"],
        0,
        "who ends in the shutdown is not started again: {last}"
    );
    let at = |reason| ended.frames.iter().find(|frame| frame.reason == reason).unwrap().uptime_ms;
    // It had all of its grace; who ends when asked to ended so.
    let took = at(Reason::PoweredOff) - at(Reason::Stopping);
    assert!(took >= GRACE_MS, "{took} ms: {ended}");
    let ends = ["mesh", "web", "agent", "dhcp"].map(|name| (name, &process(last, name)["last_exit"]));
    for (name, end) in ends {
        assert!(!end.is_null() && end != "signal 9", "{name} ended with {end}: {ended}");
    }
    assert_eq!(ended.last().stage, Stage::Shutdown);
}
