//! Who reads a machine's logs: the app that its document names, as its quote says, and nobody else.

use std::fs::File;

use casemate_mesh::ring::{Batch, CAPACITY, Writer, file_len};

use crate::backend::{Backend, Seen};
use crate::client::call;
use crate::machine::{CALLER, DEMO, EXTERNAL, Machine, another_image, image};
use crate::proxy::{Proxy, start_with};

/// A ring with one line, as PID 1 writes it, and the mesh's own descriptor of it.
pub(crate) fn ring(line: &str) -> File {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(file_len()).unwrap();
    let reader = File::open(file.path()).unwrap();
    let mut batch = Batch::default();
    batch.push(1, false, line.as_bytes());
    Writer::new(file.into_file(), CAPACITY).unwrap().append(batch).unwrap();
    reader
}

/// The demo's machine with a log called `web`, which `reader` may read.
pub(crate) async fn logging(machine: &Machine, backend: &Backend, reader: &Machine) -> Proxy {
    let app = reader.app;
    start_with(machine, backend, vec![ring("a line of the service")], |config| {
        config.logs = vec!["web".to_owned()];
        config.log_readers = vec![app];
    })
    .await
}

pub(crate) const GET: &str =
    "GET /.well-known/casemate/logs/web HTTP/1.1\r\nhost: demo\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn the_named_app_reads_and_others_do_not() {
    let (machine, backend) = (Machine::boot(DEMO, image()), Backend::answering("the page").await);
    let (reader, other) = (Machine::boot(CALLER, image()), Machine::boot(EXTERNAL, image()));
    let mesh = logging(&machine, &backend, &reader).await;

    let answer = call(mesh.inbound, Some(reader.certificate().await), GET).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert!(answer.body().contains(r#""text":"a line of the service""#), "{answer:?}");

    for refused in [Some(other.certificate().await), None] {
        let answer = call(mesh.inbound, refused, GET).await;
        assert_eq!(answer.status(), 403, "{answer:?}");
        assert!(!answer.body().contains("a line of"), "{answer:?}");
    }
    // The reader's own app id, on an image of somebody's own: that is not even a connection.
    let foreign = Machine::boot(CALLER, another_image());
    assert_eq!(foreign.app, reader.app);
    let mark = crate::log::mark();
    call(mesh.inbound, Some(foreign.certificate().await), GET).await.refusal();
    mark.line(&["handshake refused", "rtmr2"]).await;
    assert_eq!(backend.seen(), Seen::nothing());
}
