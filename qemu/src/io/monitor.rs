//! A short conversation with a running machine's monitor.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::error::Error;
use crate::qmp::{self, Message, MessageStream};
use crate::rundir::RunDir;

/// How long QEMU may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Gives one command ([`qmp::POWERDOWN`], [`qmp::QUIT`]) to the machine of a run directory.
///
/// # Errors
/// [`Error::NotRunning`] if none runs there; [`Error::Qmp`] if the monitor does not answer as it should.
pub fn command(dir: &RunDir, command: &str) -> Result<(), Error> {
    if !dir.is_claimed() {
        return Err(Error::NotRunning(dir.path().into()));
    }
    let path = dir.qmp();
    let mut socket = UnixStream::connect(&path).map_err(Error::file(&path))?;
    socket.set_read_timeout(Some(ANSWER)).map_err(Error::file(&path))?;
    let mut messages = MessageStream::default();
    let mut await_message = |socket: &mut UnixStream, wanted: &Message| -> Result<(), Error> {
        let mut chunk = [0; 4096];
        loop {
            let length = socket.read(&mut chunk).map_err(Error::file(&path))?;
            let bytes = chunk.get(..length).filter(|bytes| !bytes.is_empty());
            let bytes = bytes.ok_or_else(|| Error::Qmp(format!("closed before {wanted:?}")))?;
            for message in messages.push(bytes) {
                match message {
                    message if message == *wanted => return Ok(()),
                    Message::Refused(why) => return Err(Error::Qmp(why)),
                    Message::NotQmp(line) => return Err(Error::Qmp(format!("not QMP: {line}"))),
                    _ => {}
                }
            }
        }
    };
    await_message(&mut socket, &Message::Greeting)?;
    for line in [qmp::CAPABILITIES, command] {
        socket.write_all(line.as_bytes()).map_err(Error::file(&dir.qmp()))?;
        await_message(&mut socket, &Message::Done)?;
    }
    Ok(())
}
