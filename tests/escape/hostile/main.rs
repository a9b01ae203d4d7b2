//! A service that wants out. It tries each documented way, and says what came of it, in a line for each:
//! `escape NAME: refused: EPERM`, `escape NAME: ESCAPED: what it got`, or `escape NAME: UNCLEAR: …`.
//!
//! | argument | what it does |
//! | --- | --- |
//! | `list` | prints the names |
//! | `attack` | tries them all, once, then sleeps; only on a host of the name `hostile` |
//! | `victim` | listens on port 9000 by TCP and UDP and on an abstract UNIX socket, has IPC and a lock, for others to reach |
//! | `neighbour` | has a lock in the attacker's own root |
//! | `eat` | takes memory until it is ended |

#![expect(
    clippy::indexing_slicing,
    clippy::cast_possible_wrap,
    reason = "tests: what fails here fails the test"
)]

mod case;
mod egress;
mod files;
mod kernel;
mod limits;
mod machine;
mod namespaces;
mod neighbours;
mod network;
mod outbound;
mod processes;
mod reach;
mod sys;
mod victim;

use std::process::ExitCode;

use case::Case;

/// Every way out, in the order they are tried. Those that use up what there is come last.
const ALL: &[&[Case]] = &[
    files::CASES,
    machine::CASES,
    processes::CASES,
    namespaces::CASES,
    kernel::CASES,
    network::CASES,
    egress::CASES,
    outbound::CASES,
    neighbours::CASES,
    limits::CASES,
];

/// How long others may take to come to rest.
const SETTLE: std::time::Duration = std::time::Duration::from_secs(4);

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("list") => cases().for_each(|case| println!("{}", case.name)),
        Some("attack") => {
            // Somebody's own machine would take some of this amiss.
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            if host.trim_end() != "hostile" || std::process::id() > 16 {
                eprintln!("this is the hostile service of the escape suite, and runs nowhere else");
                return ExitCode::from(64);
            }
            attack();
        }
        Some("victim") => victim::be_a_victim(),
        Some("neighbour") => victim::be_a_neighbour(),
        Some("eat") => limits::eat(),
        _ => return ExitCode::from(64),
    }
    ExitCode::SUCCESS
}

fn cases() -> impl Iterator<Item = &'static Case> {
    ALL.iter().copied().flatten()
}

fn attack() -> ! {
    // The glutton ends first: the kernel says so on the console, in the middle of anybody's line.
    std::thread::sleep(SETTLE);
    let mut refused = 0;
    let mut lines = Vec::new();
    for case in cases() {
        let (words, good) = case.run();
        refused += usize::from(good);
        lines.push(format!("escape {}: {words}", case.name));
        lines.last().into_iter().for_each(|line| println!("{line}"));
    }
    lines.extend(neighbours::known());
    let tried = cases().count();
    // Once more, for the same reason.
    std::thread::sleep(SETTLE);
    lines.iter().for_each(|line| println!("{line}"));
    println!("escapes tried: {tried} cases, {refused} refused");
    loop {
        sys::pause();
    }
}
