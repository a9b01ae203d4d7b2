//! The socket: a few callers at a time, a line in, lines out.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tracing::debug;

use super::Request;

/// Callers at a time; a further one waits.
const MAX_CALLERS: usize = 16;
/// A request is a line of this many bytes at most.
const MAX_REQUEST: u64 = 4096;
/// How long a caller may take to say what it wants, and to read a line of the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A question for the node.
#[derive(Debug)]
pub struct Ask {
    /// What is asked.
    pub request: Request,
    /// Where lines of the answer go. Dropped: the answer is complete.
    pub answer: Asked,
}

/// Where an answer goes, line by line.
pub type Asked = mpsc::Sender<String>;

/// Serves until the node no longer listens.
pub async fn serve(listener: UnixListener, asks: mpsc::Sender<Ask>) {
    let callers = Arc::new(Semaphore::new(MAX_CALLERS));
    loop {
        let Ok(place) = Arc::clone(&callers).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!(%error, "status socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if asks.is_closed() {
            return;
        }
        let asks = asks.clone();
        tokio::spawn(async move {
            if let Err(error) = one(stream, asks).await {
                debug!(%error, "a caller of the status socket");
            }
            drop(place);
        });
    }
}

async fn one(stream: UnixStream, asks: mpsc::Sender<Ask>) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    timeout(PATIENCE, BufReader::new(read.take(MAX_REQUEST)).read_line(&mut line)).await??;
    let request = match serde_json::from_str(&line) {
        Ok(request) => request,
        Err(error) => {
            let answer = serde_json::json!({ "error": format!("expected a request, found {error}") });
            return write.write_all(format!("{answer}\n").as_bytes()).await;
        }
    };
    let (answer, mut lines) = mpsc::channel(4);
    if asks.send(Ask { request, answer }).await.is_err() {
        return Ok(());
    }
    while let Some(line) = lines.recv().await {
        timeout(PATIENCE, write.write_all(line.as_bytes())).await??;
        timeout(PATIENCE, write.write_all(b"\n")).await??;
    }
    Ok(())
}
