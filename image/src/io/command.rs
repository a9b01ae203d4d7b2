//! Running a program to its end.

use std::process::{Command, Output, Stdio};

use crate::error::{ImageError, Result};

/// Standard output of a program that must succeed. `what` says in errors what it was to do.
pub(crate) fn output(command: &mut Command, what: &str) -> Result<String> {
    let output = run(command, what)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(ImageError::Program {
        program: title(command, what),
        status: output.status.to_string(),
        output: tail(&output),
    })
}

/// Runs a program; only not being able to start it is an error.
pub(crate) fn run(command: &mut Command, what: &str) -> Result<Output> {
    command.stdin(Stdio::null()).output().map_err(|error| ImageError::Program {
        program: title(command, what),
        status: "not started".into(),
        output: error.to_string(),
    })
}

/// The last lines of what a program said, standard error first of all.
pub(crate) fn tail(output: &Output) -> String {
    let text = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    let text = String::from_utf8_lossy(text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let from = lines.len().saturating_sub(8);
    lines.get(from..).unwrap_or_default().join("; ")
}

fn title(command: &Command, what: &str) -> String {
    format!("{} ({what})", command.get_program().to_string_lossy())
}
