//! Programs that run beside the test: each logs to a file, dies with the test whatever ends it, and is waited for.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::{s, until};

/// A running program. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// How many of a log's last lines are shown when a test fails.
const LAST: usize = 40;

impl Process {
    /// Starts a program, whose output goes to `log`, at its end.
    pub(crate) fn start(name: &str, log: &Path, command: &mut Command) -> Self {
        let out = File::options().create(true).append(true).open(log).unwrap();
        let errors = out.try_clone().unwrap();
        let child = command.stdin(Stdio::null()).stdout(out).stderr(errors).spawn();
        let child = child.unwrap_or_else(|error| panic!("{name}: {error}: {command:?}"));
        Self { name: name.to_owned(), child, log: log.to_owned() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().try_into().unwrap()), signal).unwrap();
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    pub(crate) fn end(&mut self, limit: Duration) -> ExitStatus {
        let name = format!("the end of {}", self.name);
        until(limit, &name, || self.child.try_wait().unwrap())
    }

    /// Kills it and waits for its end.
    pub(crate) fn kill(&mut self) {
        if self.ended().is_none() {
            self.child.kill().unwrap();
            self.end(s(10));
        }
    }

    /// Everything that it said; nothing, if that is gone. It is asked for in a panic: a second one would end all tests at once, and
    /// leave everything behind that they would remove.
    pub(crate) fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = self.said();
            let lines: Vec<_> = said.lines().collect();
            eprintln!("--- the last that {} said", self.name);
            for line in &lines[lines.len().saturating_sub(LAST)..] {
                eprintln!("    {line}");
            }
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
