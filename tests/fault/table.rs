//! The table: machines, their faults, and what must follow each.

use Expected::{Age, Health, Line, Nothing, Off, Repeats, Says, SaysLater};
use casemate_measure::status::Reason::{
    AgentFailed, Deadline, ForbiddenCall, GivenUp, Hung, LockFailed, MeshFailed, OutOfMemory, Panic,
    PoweredOff, Restarting, ShareReader, Stopping,
};
use casemate_measure::status::{Reason, Stage};

use crate::judge::{Expected, Faults};

/// One machine.
pub(crate) struct Row {
    /// For people.
    pub(crate) machine: &'static str,
    /// Orders for `danger-faults`, and what must follow each.
    pub(crate) faults: Faults,
    /// Who else is not ready at its end, because nothing that follows makes it so: a service stopped or starved at its start.
    pub(crate) not_ready: u64,
    /// How long it runs after it got ready, in seconds of guest time; one that must end by itself, at most.
    pub(crate) runs: u64,
    /// Whether its document comes on the host share.
    pub(crate) shared: bool,
    /// Whether it waits for something, so that its time should pass as fast as can be; else it is faster to count nothing.
    pub(crate) waits: bool,
}

const AGAIN: &[Reason] = &[Restarting];
const HUNG: &[Reason] = &[Hung, Restarting];
const STATUS: &str = "/run/casemate/status.json";

/// Faults that do not disturb each other, in one machine that goes on.
const fn together(machine: &'static str, faults: Faults, runs: u64) -> Row {
    Row { machine, faults, runs, not_ready: 0, shared: false, waits: true }
}

/// The same, with a service that never gets ready.
const fn together_but_one(machine: &'static str, faults: Faults, runs: u64) -> Row {
    Row { not_ready: 1, ..together(machine, faults, runs) }
}

/// One that ends before it is ready, when something has taken too long.
const fn off(faults: Faults) -> Row {
    Row { machine: "off, in time", faults, runs: 0, not_ready: 0, shared: false, waits: true }
}

/// One that ends at once.
const fn off_at_once(faults: Faults) -> Row {
    Row { machine: "off, at once", faults, runs: 0, not_ready: 0, shared: false, waits: false }
}

/// One that ends once it is ready.
const fn off_later(faults: Faults) -> Row {
    Row { machine: "off, once it was ready", faults, runs: 600, not_ready: 0, shared: false, waits: true }
}

/// The same, soon.
const fn off_soon(faults: Faults) -> Row {
    Row {
        machine: "off, once it was ready, and soon",
        faults,
        runs: 60,
        not_ready: 0,
        shared: false,
        waits: false,
    }
}

const fn off_shared(faults: Faults) -> Row {
    Row { machine: "off, with a host share", faults, runs: 0, not_ready: 0, shared: true, waits: true }
}

/// Processes that are killed, stopped and starved wherever they live, and PID 1 itself.
///
/// The machines' services: `web` listens and answers; `probe` should listen and does not; `crash` fails at once, `hungry`
/// takes more memory than it may.
pub(crate) const PROCESSES: &[Row] = &[
    together(
        "each is killed where it starts",
        &[
            ("kill:dhcp@address", Says(Stage::Address, "dhcp", AGAIN)),
            ("kill:time@time", Says(Stage::Time, "time", AGAIN)),
            ("kill:agent@agent", Says(Stage::Agent, "agent", AGAIN)),
            ("kill:web@services", SaysLater("web", AGAIN)),
            ("kill:mesh@mesh", Says(Stage::Mesh, "mesh", AGAIN)),
            ("(probe does not listen)", Health("probe", "not listening on 8001")),
            // Once they run, what ends one is no matter to the others.
            ("syscall:agent@ready+70", Says(Stage::Ready, "agent", &[ForbiddenCall, Restarting])),
            ("kill:web/workload@ready+70", Says(Stage::Ready, "web", AGAIN)),
            ("syscall:web/workload@ready+85", Says(Stage::Ready, "web", &[ForbiddenCall, Restarting])),
            ("stop:mesh@ready+70", Says(Stage::Ready, "mesh", HUNG)),
            ("kill:dhcp@ready+70", Says(Stage::Ready, "dhcp", AGAIN)),
            ("kill:time@ready+70", Says(Stage::Ready, "time", AGAIN)),
            // The kernel lets neither reach process 1.
            ("kill:pid1@ready+75", Nothing("pid1")),
            ("stop:pid1@ready+75", Nothing("pid1")),
            ("starve:dhcp@ready+100", Nothing("dhcp")),
            ("stop:web@ready+100", Nothing("web")),
        ],
        150,
    ),
    together(
        "each is killed a stage later",
        &[
            ("kill:dhcp@agent", Says(Stage::Agent, "dhcp", AGAIN)),
            ("kill:time@agent", Says(Stage::Agent, "time", AGAIN)),
            ("kill:agent@services", SaysLater("agent", AGAIN)),
            ("kill:web@mesh", SaysLater("web", AGAIN)),
            ("kill:mesh@ready", Says(Stage::Ready, "mesh", AGAIN)),
            ("stop:agent@ready+70", Says(Stage::Ready, "agent", HUNG)),
            ("stop:dhcp@ready+70", Says(Stage::Ready, "dhcp", HUNG)),
            ("stop:time@ready+70", Nothing("time")),
            ("starve:web@ready+70", Nothing("web")),
            // It never gets over its 10 failures: 243 s of waiting.
            ("(crash fails at once)", Repeats("crash", &[Restarting, GivenUp])),
            ("(hungry takes all memory)", Repeats("hungry", &[OutOfMemory, Restarting, OutOfMemory])),
            ("freeze:web@ready+300", Nothing("web")),
        ],
        320,
    ),
    together(
        "stopped where nobody waits for it, and /run is full from the start",
        &[
            ("stop:dhcp@agent", Nothing("dhcp")),
            ("kill:dhcp@services", SaysLater("dhcp", AGAIN)),
            ("kill:time@services", SaysLater("time", AGAIN)),
            ("stop:agent@services", Says(Stage::Mesh, "agent", HUNG)),
            ("stop:web@services", Nothing("web")),
            ("kill:dhcp@mesh+5", Says(Stage::Mesh, "dhcp", AGAIN)),
            ("stop:time@mesh+5", Nothing("time")),
            ("fill:/run@links", Line("/run/casemate/status.json: No space left on device")),
            // With /run full.
            ("kill:agent@ready+70", Says(Stage::Ready, "agent", AGAIN)),
            ("kill:web@ready+70", Says(Stage::Ready, "web", AGAIN)),
            ("kill:mesh@ready+70", Says(Stage::Ready, "mesh", AGAIN)),
        ],
        150,
    ),
    together(
        "starved once it runs",
        &[
            ("kill:agent@mesh", Says(Stage::Mesh, "agent", AGAIN)),
            ("kill:time@mesh", Says(Stage::Mesh, "time", AGAIN)),
            ("starve:dhcp@mesh", Nothing("dhcp")),
            ("starve:agent@ready", Nothing("agent")),
            ("starve:mesh@ready", Nothing("mesh")),
            ("starve:web@ready", Nothing("web")),
            ("starve:time@ready+10", Nothing("time")),
        ],
        120,
    ),
    together_but_one(
        "stopped where it starts or later, and /run gets full",
        &[
            ("stop:time@time", Nothing("time")),
            ("stop:dhcp@services", SaysLater("dhcp", HUNG)),
            ("stop:agent@mesh", Says(Stage::Mesh, "agent", HUNG)),
            ("stop:web@mesh", Nothing("web")),
            // PID 1 says anew how it is whenever something has changed: at the latest each 10 s, when it has counted a frame.
            ("look:/run/casemate/status.json@ready+60", Age(STATUS, 0, 12)),
            ("fill:/run@ready+70", Line("/run/casemate/status.json: No space left on device")),
            ("look:/run/casemate/status.json@ready+150", Age(STATUS, 78, 92)),
        ],
        180,
    ),
    together_but_one(
        "starved where it starts, or where nobody waits for it",
        &[
            // It has not got an address yet, which the stage waits for: long enough for another one.
            ("stop:dhcp@address", Says(Stage::Address, "dhcp", HUNG)),
            ("starve:time@time", Nothing("time")),
            ("starve:dhcp@agent", Nothing("dhcp")),
            ("starve:web@services", Nothing("web")),
        ],
        90,
    ),
    together_but_one(
        "stopped and starved while others start",
        &[
            // What it has is enough for an address.
            ("starve:dhcp@address", Nothing("dhcp")),
            ("stop:time@agent", Nothing("time")),
            ("stop:dhcp@mesh", SaysLater("dhcp", HUNG)),
            ("starve:web@mesh", Nothing("web")),
        ],
        90,
    ),
    off_shared(&[("kill:share@measure", Off(Stage::Measure, ShareReader))]),
    off_shared(&[("stop:share@measure", Off(Stage::Measure, ShareReader))]),
    off_shared(&[("starve:share@measure", Off(Stage::Measure, ShareReader))]),
    off(&[("stop:agent@agent", Off(Stage::Agent, AgentFailed))]),
    off(&[("starve:agent@agent", Off(Stage::Agent, AgentFailed))]),
    // Whether 1 ms in a second is enough for the mesh's certificate is no rule; nothing at all is not.
    off(&[("freeze:agent@services", Off(Stage::Mesh, MeshFailed))]),
    off(&[("freeze:agent@mesh", Off(Stage::Mesh, MeshFailed))]),
    off(&[("stop:mesh@mesh", Off(Stage::Mesh, MeshFailed))]),
    off(&[("starve:mesh@mesh", Off(Stage::Mesh, MeshFailed))]),
    off(&[("hang:pid1@manifest", Off(Stage::Manifest, Deadline))]),
    off_at_once(&[("panic:pid1@manifest", Off(Stage::Manifest, Panic))]),
    off_at_once(&[("panic:pid1@measure", Off(Stage::Measure, Panic))]),
    off(&[("hang:pid1@lock", Off(Stage::Lock, Deadline))]),
    off(&[("hang:pid1@links", Off(Stage::Links, Deadline))]),
    off_at_once(&[("panic:pid1@address", Off(Stage::Address, Panic))]),
    off_at_once(&[("panic:pid1@mesh", Off(Stage::Mesh, Panic))]),
    off_later(&[("hang:pid1@ready", Off(Stage::Ready, Deadline))]),
    off_soon(&[("panic:pid1@ready", Off(Stage::Ready, Panic))]),
    // A request to shut down, by a signal: before it is ready there is nothing that must end in order.
    off_at_once(&[("term:pid1@mesh", Off(Stage::Mesh, Stopping))]),
    off_soon(&[("term:pid1@ready+5", Off(Stage::Shutdown, PoweredOff))]),
    off_soon(&[("int:pid1@ready+5", Off(Stage::Shutdown, PoweredOff))]),
    off_later(&[
        ("term:pid1@ready+5", Off(Stage::Shutdown, Deadline)),
        ("hang:pid1@shutdown", Off(Stage::Shutdown, Deadline)),
    ]),
    off_later(&[UNLOCKED]),
];

/// There is no lock any more: PID 1 sees it within 30 s.
pub(crate) const UNLOCKED: (&str, Expected) = ("unlock:inet@ready+5", Off(Stage::Ready, LockFailed));

/// The same, in a machine where nobody looks at the lock any more: what the table expects must fail there.
pub(crate) const WEAKENED: Row = together(
    "nobody looks at the lock",
    &[("weaken:lock@ready", Nothing("lock")), ("unlock:inet@ready+5", Nothing("lock"))],
    60,
);

/// The VPN process's, in a machine whose private network the test makes ([`crate::vpn`]): each when the test says so, which makes
/// a disk of one sector so many long.
pub(crate) const VPN: Faults = &[
    ("kill:vpn@ready#2", SaysLater("vpn", AGAIN)),
    // While its server is down.
    ("kill:vpn@ready#3", SaysLater("vpn", AGAIN)),
    // Ten in a row; with the waits that it has otherwise they would take five minutes.
    ("hurry:vpn@ready#4", Nothing("vpn")),
    ("kill:vpn@ready#5", SaysLater("vpn", AGAIN)),
    ("kill:vpn@ready#6", SaysLater("vpn", AGAIN)),
    ("kill:vpn@ready#7", SaysLater("vpn", AGAIN)),
    ("kill:vpn@ready#8", SaysLater("vpn", AGAIN)),
    ("kill:vpn@ready#9", SaysLater("vpn", AGAIN)),
    ("kill:vpn@ready#10", SaysLater("vpn", AGAIN)),
    ("kill:vpn@ready#11", SaysLater("vpn", AGAIN)),
    ("kill:vpn@ready#12", SaysLater("vpn", AGAIN)),
    ("kill:vpn@ready#13", SaysLater("vpn", AGAIN)),
    ("kill:vpn@ready#14", SaysLater("vpn", AGAIN)),
    ("squeeze:vpn@ready#15", SaysLater("vpn", &[OutOfMemory, Restarting])),
    ("stop:vpn@ready#16", Says(Stage::Ready, "vpn", HUNG)),
];

/// A server that is none: the process is started anew once the real one is there.
pub(crate) const STRANGER: Faults = &[("kill:vpn@ready#2", SaysLater("vpn", AGAIN))];
