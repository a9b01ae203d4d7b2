//! One way out: tried in a child of its own, judged by how it was refused.

use std::io::Read as _;

use crate::sys;

/// What an attempt came to: what was got, or the errno of the refusal. [`NOTHING`]: there was nothing to be had.
pub(crate) type Attempt = fn() -> Result<String, i32>;

/// No refusal by the kernel: what was looked for is not there.
pub(crate) const NOTHING: i32 = 0;

/// The outbound proxy said no: its status code comes on top.
pub(crate) const HTTP: i32 = 100_000;

/// A documented way out.
pub(crate) struct Case {
    /// As it is printed.
    pub(crate) name: &'static str,
    /// The refusals that are good ones. Any other errno may mean that the call was only made in the wrong way.
    pub(crate) refusals: &'static [i32],
    /// The signals that are good ends.
    pub(crate) signals: &'static [i32],
    /// Tries it.
    pub(crate) attempt: Attempt,
}

/// One that must be refused with one of these.
pub(crate) const fn case(name: &'static str, refusals: &'static [i32], attempt: Attempt) -> Case {
    Case { name, refusals, signals: &[], attempt }
}

/// One attempt takes at most this many seconds.
const PATIENCE: u32 = 30;

impl Case {
    /// Tries it; what is to be said of it, and whether it was refused.
    pub(crate) fn run(&self) -> (String, bool) {
        match self.in_child() {
            Ok((text, status)) if libc::WIFSIGNALED(status) => {
                let signal = libc::WTERMSIG(status);
                (
                    format!("{}signal {signal}{text}", self.word(self.signals.contains(&signal))),
                    self.signals.contains(&signal),
                )
            }
            Ok((text, _)) => match text.split_once(' ') {
                Some(("errno", number)) => {
                    let number: i32 = number.parse().unwrap_or(-1);
                    let good = self.refusals.contains(&number);
                    (format!("{}{}", self.word(good), name(number)), good)
                }
                Some(("got", what)) => (format!("ESCAPED: {what}"), false),
                _ => (format!("UNCLEAR: {text:?}"), false),
            },
            Err(errno) => (format!("UNCLEAR: no child: {}", name(errno)), false),
        }
    }

    const fn word(&self, good: bool) -> &'static str {
        if good { "refused: " } else { "UNCLEAR: " }
    }

    fn in_child(&self) -> Result<(String, i32), i32> {
        let (read, write) = sys::pipe()?;
        let pid = sys::fork()?;
        if pid == 0 {
            sys::close(read);
            sys::alarm(PATIENCE);
            let said = match (self.attempt)() {
                Ok(what) => format!("got {what}"),
                Err(errno) => format!("errno {errno}"),
            };
            _ = sys::call!(libc::SYS_write, write, said.as_bytes(), said.len() as i64);
            sys::exit_now(0);
        }
        sys::close(write);
        let mut text = String::new();
        // What a child left behind may hold the other end open: the first message is all there is.
        let mut buffer = [0; 512];
        let mut pipe = sys::owned(read);
        if let Ok(length) = pipe.read(&mut buffer) {
            text.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        Ok((text, sys::wait(pid)?))
    }
}

/// An errno by name.
fn name(errno: i32) -> String {
    let known = [
        (NOTHING, "nothing to be had"),
        (libc::EPERM, "EPERM"),
        (libc::EACCES, "EACCES"),
        (libc::ENOENT, "ENOENT"),
        (libc::ESRCH, "ESRCH"),
        (libc::EROFS, "EROFS"),
        (libc::ENOSYS, "ENOSYS"),
        (libc::EAGAIN, "EAGAIN"),
        (libc::EMFILE, "EMFILE"),
        (libc::ENOSPC, "ENOSPC"),
        (libc::ENOTDIR, "ENOTDIR"),
        (libc::ECONNREFUSED, "ECONNREFUSED"),
        (libc::EINVAL, "EINVAL"),
        (libc::EADDRNOTAVAIL, "EADDRNOTAVAIL"),
        (libc::EPROTONOSUPPORT, "EPROTONOSUPPORT"),
        (libc::ETIMEDOUT, "ETIMEDOUT"),
        (libc::EHOSTUNREACH, "EHOSTUNREACH"),
        (libc::ENETUNREACH, "ENETUNREACH"),
    ];
    if errno > HTTP {
        return format!("HTTP {}", errno - HTTP);
    }
    let found = known.iter().find(|(number, _)| *number == errno);
    found.map_or_else(|| format!("errno {errno}"), |(_, name)| (*name).to_owned())
}
