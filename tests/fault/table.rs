//! The table: machines, their faults, and what must follow each.

use Expected::{Nothing, Off, Says, SaysLater};
use casemate_measure::status::Reason::{
    AgentFailed, Deadline, ForbiddenCall, GivenUp, Hung, MeshFailed, NoAddress, OutOfMemory, Panic,
    Restarting,
};
use casemate_measure::status::{Reason, Stage};

use crate::judge::Expected;

/// One machine.
pub(crate) struct Row {
    /// For people.
    pub(crate) machine: &'static str,
    /// Orders for `danger-faults`, and what must follow each.
    pub(crate) faults: &'static [(&'static str, Expected)],
    /// How long it runs after it got ready, in seconds of guest time.
    pub(crate) runs: u64,
}

const AGAIN: &[Reason] = &[Restarting];
const HUNG: &[Reason] = &[Hung, Restarting];

/// Processes that are killed, stopped and starved wherever they live, and PID 1 itself.
///
/// The machines' services: `web` listens and answers; `crash` fails at once, `hungry` takes more memory than it may.
pub(crate) const PROCESSES: &[Row] = &[
    Row {
        machine: "each is killed where it starts",
        faults: &[
            ("kill:dhcp@address", Says(Stage::Address, "dhcp", AGAIN)),
            ("kill:agent@agent", Says(Stage::Agent, "agent", AGAIN)),
            ("kill:web@services", SaysLater("web", AGAIN)),
            ("kill:mesh@mesh", Says(Stage::Mesh, "mesh", AGAIN)),
            // Once they run, what ends one is no matter to the others.
            ("syscall:agent@ready+70", Says(Stage::Ready, "agent", &[ForbiddenCall, Restarting])),
            ("kill:web/workload@ready+70", Says(Stage::Ready, "web", AGAIN)),
            ("stop:mesh@ready+70", Says(Stage::Ready, "mesh", HUNG)),
            ("kill:dhcp@ready+70", Says(Stage::Ready, "dhcp", AGAIN)),
        ],
        runs: 150,
    },
    Row {
        machine: "each is killed a stage later",
        faults: &[
            ("kill:dhcp@agent", Says(Stage::Agent, "dhcp", AGAIN)),
            ("kill:agent@services", SaysLater("agent", AGAIN)),
            ("kill:mesh@ready", Says(Stage::Ready, "mesh", AGAIN)),
            ("stop:agent@ready+70", Says(Stage::Ready, "agent", HUNG)),
            ("stop:dhcp@ready+70", Nothing(Stage::Ready, "dhcp")),
            ("starve:web@ready+70", Nothing(Stage::Ready, "web")),
            // It never gets over its 10 failures: 243 s of waiting.
            ("(crash fails at once)", Says(Stage::Ready, "crash", &[Restarting, GivenUp])),
            (
                "(hungry takes all memory)",
                Says(Stage::Ready, "hungry", &[OutOfMemory, Restarting, OutOfMemory]),
            ),
            ("freeze:web@ready+300", Nothing(Stage::Ready, "web")),
        ],
        runs: 320,
    },
    Row {
        machine: "stopped where nobody waits for it",
        faults: &[
            ("kill:dhcp@services", SaysLater("dhcp", AGAIN)),
            ("stop:agent@services", Says(Stage::Mesh, "agent", HUNG)),
            ("stop:web@services", Nothing(Stage::Mesh, "web")),
            ("kill:dhcp@mesh+5", Says(Stage::Mesh, "dhcp", AGAIN)),
            ("fill:/run@links", Nothing(Stage::Ready, "probe")),
            // With /run full.
            ("kill:agent@ready+70", Says(Stage::Ready, "agent", AGAIN)),
            ("kill:web@ready+70", Says(Stage::Ready, "web", AGAIN)),
            ("kill:mesh@ready+70", Says(Stage::Ready, "mesh", AGAIN)),
        ],
        runs: 150,
    },
    Row {
        machine: "starved once it runs",
        faults: &[
            ("kill:agent@mesh", Says(Stage::Mesh, "agent", AGAIN)),
            ("stop:dhcp@agent", Nothing(Stage::Ready, "dhcp")),
            ("starve:agent@ready", Nothing(Stage::Ready, "agent")),
            ("starve:mesh@ready", Nothing(Stage::Ready, "mesh")),
            ("starve:web@ready", Nothing(Stage::Ready, "web")),
        ],
        runs: 120,
    },
    Row { machine: "1", faults: &[("stop:dhcp@address", Off(Stage::Address, NoAddress))], runs: 0 },
    Row { machine: "2", faults: &[("stop:agent@agent", Off(Stage::Agent, AgentFailed))], runs: 0 },
    Row { machine: "3", faults: &[("starve:agent@agent", Off(Stage::Agent, AgentFailed))], runs: 0 },
    Row { machine: "4", faults: &[("stop:mesh@mesh", Off(Stage::Mesh, MeshFailed))], runs: 0 },
    Row { machine: "5", faults: &[("starve:mesh@mesh", Off(Stage::Mesh, MeshFailed))], runs: 0 },
    Row { machine: "6", faults: &[("hang:pid1@links", Off(Stage::Links, Deadline))], runs: 0 },
    Row { machine: "7", faults: &[("hang:pid1@ready", Off(Stage::Ready, Deadline))], runs: 600 },
    Row { machine: "8", faults: &[("panic:pid1@ready", Off(Stage::Ready, Panic))], runs: 600 },
];
