//! What the mesh writes to its log: the only place that names why a stranger was refused, who is told no more than TLS tells.

use std::io::{self, Write};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

static LINES: Mutex<String> = Mutex::new(String::new());

struct Lines;

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push_str(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// From now on everything that is logged in this process is kept.
pub(crate) fn keep() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::TRACE);
        subscriber.with_writer(|| Lines).init();
    });
}

/// A place in the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark(usize);

pub(crate) fn mark() -> Mark {
    keep();
    Mark(LINES.lock().unwrap().len())
}

impl Mark {
    /// Everything since then, of every test in this process.
    pub(crate) fn text(self) -> String {
        LINES.lock().unwrap()[self.0..].to_owned()
    }

    /// The first line since then that has all of these texts in it, waiting for it a minute.
    pub(crate) async fn line(self, texts: &[&str]) -> String {
        let patience = Instant::now() + Duration::from_secs(60);
        loop {
            let since = LINES.lock().unwrap()[self.0..].to_owned();
            if let Some(line) = since.lines().find(|line| texts.iter().all(|text| line.contains(text))) {
                return line.to_owned();
            }
            assert!(Instant::now() < patience, "no line with {texts:?} in the log:\n{since}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
