//! A profile: its text, and the filter that the text compiles to. Pure.
//!
//! ```text
//! otherwise kill                             # or: otherwise EPERM; the first line
//! read                                       # allowed
//! socket when arg0 == 1 and arg2 == 0        # allowed with these arguments; several lines of one name are alternatives
//! clone when arg0:64 & 0x7e020080 == 0       # arguments are 32 bits wide unless they say :64
//! clone3 answers ENOSYS                      # refused with this error
//! ```

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};
use syscalls::Sysno;

use super::ConfineError;

/// Whose list of system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// The guest agent.
    Agent,
    /// The mesh proxy.
    Mesh,
    /// The VPN process.
    Vpn,
    /// The DHCP client.
    Dhcp,
    /// The reader of the host share.
    Share,
    /// The time client.
    Time,
    /// Process 1 of a service's pid namespace, on top of [`Profile::Service`], which it enters first.
    ServiceShim,
    /// A service.
    Service,
}

/// What a profile compiles to.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Gives calls that are refused with an error of their own that error.
    pub(super) answers: Option<BpfProgram>,
    /// Lets the listed calls through, and nothing else.
    pub(super) main: BpfProgram,
}

impl Profile {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Agent,
        Self::Mesh,
        Self::Vpn,
        Self::Dhcp,
        Self::Share,
        Self::Time,
        Self::ServiceShim,
        Self::Service,
    ];

    /// The name of its file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Mesh => "mesh",
            Self::Vpn => "vpn",
            Self::Dhcp => "dhcp",
            Self::Share => "share",
            Self::Time => "time",
            Self::ServiceShim => "service-shim",
            Self::Service => "service",
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Agent => include_str!("profiles/agent.syscalls"),
            Self::Mesh => include_str!("profiles/mesh.syscalls"),
            Self::Vpn => include_str!("profiles/vpn.syscalls"),
            Self::Dhcp => include_str!("profiles/dhcp.syscalls"),
            Self::Share => include_str!("profiles/share.syscalls"),
            Self::Time => include_str!("profiles/time.syscalls"),
            Self::ServiceShim => include_str!("profiles/service-shim.syscalls"),
            Self::Service => include_str!("profiles/service.syscalls"),
        }
    }

    /// Compiles it.
    ///
    /// # Errors
    /// [`ConfineError::Line`] with the first line that is not one; [`ConfineError::Compile`] if the compiler refuses.
    pub fn filter(self) -> Result<Filter, ConfineError> {
        parse(self.name(), self.text())?.compile(self.name())
    }
}

/// A call's numbers and the conditions under which it is allowed; no condition: always.
type Rules = BTreeMap<i64, Vec<Vec<Condition>>>;

#[derive(Debug, PartialEq, Eq)]
struct Parsed {
    otherwise: SeccompAction,
    allowed: Rules,
    /// Answered with ENOSYS.
    unknown: Vec<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Condition {
    argument: u8,
    wide: bool,
    mask: Option<u64>,
    equal: bool,
    value: u64,
}

fn parse(profile: &'static str, text: &str) -> Result<Parsed, ConfineError> {
    let mut otherwise = None;
    let (mut allowed, mut unknown) = (Rules::new(), Vec::new());
    for (line, content) in (1..).zip(text.lines()) {
        let wrong =
            |expected, found: &str| ConfineError::Line { profile, line, expected, found: found.to_owned() };
        let content = content.split('#').next().unwrap_or_default().trim();
        let words: Vec<&str> = content.split_whitespace().collect();
        match (&otherwise, words.as_slice()) {
            (_, []) => {}
            (None, ["otherwise", "kill"]) => otherwise = Some(SeccompAction::KillProcess),
            (None, ["otherwise", "EPERM"]) => otherwise = Some(SeccompAction::Errno(EPERM)),
            (None, _) => return Err(wrong("\"otherwise kill\" or \"otherwise EPERM\" first", content)),
            (Some(_), [name, rest @ ..]) => {
                let number = number(name).ok_or_else(|| wrong("a system call of x86-64", name))?;
                let known = allowed.get(&number);
                match rest {
                    [] if known.is_none() => {
                        allowed.insert(number, Vec::new());
                    }
                    ["answers", "ENOSYS"] if known.is_none() => {
                        // The main filter lets it through to the verdict of the other one.
                        allowed.insert(number, Vec::new());
                        unknown.push(number);
                    }
                    ["when", conditions @ ..] if known.is_none_or(|known| !known.is_empty()) => {
                        let rule: Option<Vec<Condition>> =
                            conditions.split(|word| *word == "and").map(condition).collect();
                        let rule =
                            rule.ok_or_else(|| wrong("argN[:64] [& MASK] == VALUE, or !=", content))?;
                        allowed.entry(number).or_default().push(rule);
                    }
                    [] | ["answers", _] | ["when", ..] => return Err(wrong("each call once", content)),
                    _ => return Err(wrong("a name, \"when …\" or \"answers ENOSYS\"", content)),
                }
            }
        }
    }
    let line = text.lines().count();
    let otherwise = otherwise.ok_or_else(|| ConfineError::Line {
        profile,
        line,
        expected: "\"otherwise kill\" or \"otherwise EPERM\"",
        found: String::new(),
    })?;
    Ok(Parsed { otherwise, allowed, unknown })
}

/// The kernel's x86-64 table, as the `syscalls` library keeps it; never a number of the x32 or i386 interface.
fn number(name: &str) -> Option<i64> {
    name.parse::<Sysno>().ok().map(|call| i64::from(call.id()))
}

fn condition(words: &[&str]) -> Option<Condition> {
    let (argument, mask, operator, value) = match words {
        [argument, operator, value] => (argument, None, operator, value),
        [argument, "&", mask, operator, value] => (argument, Some(integer(mask)?), operator, value),
        _ => return None,
    };
    let (argument, wide) = match argument.strip_suffix(":64") {
        Some(argument) => (argument, true),
        None => (*argument, false),
    };
    let argument = argument.strip_prefix("arg")?.parse().ok().filter(|argument| *argument < 6)?;
    let equal = match *operator {
        "==" => true,
        // The compiler has no masked inequality.
        "!=" if mask.is_none() => false,
        _ => return None,
    };
    Some(Condition { argument, wide, mask, equal, value: integer(value)? })
}

fn integer(word: &str) -> Option<u64> {
    match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => word.parse().ok(),
    }
}

impl Parsed {
    fn compile(self, profile: &'static str) -> Result<Filter, ConfineError> {
        let failed = |source| ConfineError::Compile { profile, source };
        let mut main = BTreeMap::new();
        for (number, alternatives) in self.allowed {
            let rules: Result<Vec<SeccompRule>, _> = alternatives.into_iter().map(rule).collect();
            main.insert(number, rules.map_err(failed)?);
        }
        // An architecture other than the target's ends the process; x32 is x86-64 with numbers that no list has.
        let compile = |rules, otherwise, then| {
            SeccompFilter::new(rules, otherwise, then, TargetArch::x86_64).and_then(BpfProgram::try_from)
        };
        let unknown: BTreeMap<_, _> = self.unknown.into_iter().map(|number| (number, Vec::new())).collect();
        let answers = if unknown.is_empty() {
            None
        } else {
            Some(compile(unknown, SeccompAction::Allow, SeccompAction::Errno(ENOSYS)).map_err(failed)?)
        };
        let main = compile(main, self.otherwise, SeccompAction::Allow).map_err(failed)?;
        Ok(Filter { answers, main })
    }
}

fn rule(conditions: Vec<Condition>) -> Result<SeccompRule, seccompiler::BackendError> {
    let conditions: Result<Vec<SeccompCondition>, _> = conditions
        .into_iter()
        .map(|one| {
            let width = if one.wide { SeccompCmpArgLen::Qword } else { SeccompCmpArgLen::Dword };
            let operator = match (one.mask, one.equal) {
                (Some(mask), _) => SeccompCmpOp::MaskedEq(mask),
                (None, true) => SeccompCmpOp::Eq,
                (None, false) => SeccompCmpOp::Ne,
            };
            SeccompCondition::new(one.argument, width, operator, one.value)
        })
        .collect();
    SeccompRule::new(conditions?)
}

/// include/uapi/asm-generic/errno-base.h.
const EPERM: u32 = 1;
/// include/uapi/asm-generic/errno.h.
const ENOSYS: u32 = 38;

#[cfg(test)]
#[path = "profile_tests.rs"]
mod tests;
