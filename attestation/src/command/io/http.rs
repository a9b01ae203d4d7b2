//! One GET of HTTP/1.1 (RFC 9112) on a stream that ends afterwards. Small, since the challenge needs the stream's own TLS
//! session, and bounded, since the other side may be hostile.

use std::io::{self, Read, Write};

/// The longest head of an answer, bytes: a PCCS has two certificates in one header.
const MAX_HEAD: usize = 64 << 10;
/// The most headers of an answer.
const MAX_HEADERS: usize = 64;
/// What the framing of chunks may take beside the body, bytes.
const MAX_FRAMING: usize = 64 << 10;

/// An answer.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// The first header of that name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body of a 200.
    pub(crate) fn ok(self) -> io::Result<Self> {
        match self.status {
            200 => Ok(self),
            other => Err(wrong(format!("expected status 200, found {other}"))),
        }
    }
}

/// Asks for a path (and query), and reads an answer whose body has at most `limit` bytes.
pub(crate) fn get(
    stream: &mut (impl Read + Write),
    authority: &str,
    path: &str,
    limit: usize,
) -> io::Result<Response> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {authority}\r\nAccept: */*\r\nUser-Agent: casemate-verify\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    let mut incoming = Incoming { stream, bytes: Vec::new() };
    let (end, mut response) = loop {
        match head(&incoming.bytes)? {
            // An interim answer; the real one follows.
            Some((end, response)) if (100..200).contains(&response.status) => {
                drop(incoming.bytes.drain(..end))
            }
            Some(found) => break found,
            None if incoming.bytes.len() > MAX_HEAD => {
                return Err(wrong(format!("expected a head of at most {MAX_HEAD} bytes, found more")));
            }
            None if incoming.fill()? => {}
            None => return Err(wrong("expected an answer of HTTP/1.1, found the end of the connection")),
        }
    };
    incoming.bytes.drain(..end);
    response.body =
        if response.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            incoming.chunks(limit)?
        } else if let Some(length) = response.header("content-length") {
            let length = length
                .parse()
                .map_err(|_| wrong(format!("content-length: expected a number, found {length:?}")))?;
            incoming.exactly(length, limit)?
        } else {
            incoming.rest(limit)?
        };
    Ok(response)
}

/// The head of an answer and where it ends, if it is there as a whole.
fn head(bytes: &[u8]) -> io::Result<Option<(usize, Response)>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut headers);
    let status = parsed
        .parse(bytes)
        .map_err(|error| wrong(format!("expected an answer of HTTP/1.1, found none: {error}")))?;
    let httparse::Status::Complete(end) = status else { return Ok(None) };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers = parsed.headers.iter().map(|header| (header.name.to_owned(), text(header.value))).collect();
    Ok(Some((end, Response { status: parsed.code.unwrap_or_default(), headers, body: Vec::new() })))
}

/// What has come, and the stream that more comes from.
struct Incoming<'a, S> {
    stream: &'a mut S,
    bytes: Vec<u8>,
}

impl<S: Read> Incoming<'_, S> {
    /// Reads some more; false at the end.
    fn fill(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 16 << 10];
        let read = self.stream.read(&mut buffer)?;
        self.bytes.extend(buffer.iter().take(read));
        Ok(read > 0)
    }

    fn at_least(&mut self, length: usize) -> io::Result<()> {
        while self.bytes.len() < length {
            if !self.fill()? {
                return Err(wrong(format!(
                    "expected {length} bytes, found the end after {}",
                    self.bytes.len()
                )));
            }
        }
        Ok(())
    }

    fn exactly(mut self, length: usize, limit: usize) -> io::Result<Vec<u8>> {
        if length > limit {
            return Err(too_long(limit));
        }
        self.at_least(length)?;
        self.bytes.truncate(length);
        Ok(self.bytes)
    }

    fn rest(mut self, limit: usize) -> io::Result<Vec<u8>> {
        while self.bytes.len() <= limit {
            if !self.fill()? {
                return Ok(self.bytes);
            }
        }
        Err(too_long(limit))
    }

    fn chunks(mut self, limit: usize) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        let mut framing = 0_usize;
        loop {
            let size = httparse::parse_chunk_size(&self.bytes)
                .map_err(|_| wrong("expected a chunk, found something else"))?;
            let httparse::Status::Complete((head, size)) = size else {
                if self.bytes.len() > MAX_FRAMING || !self.fill()? {
                    return Err(wrong("expected a chunk, found none"));
                }
                continue;
            };
            // What follows the last chunk says nothing.
            if size == 0 {
                return Ok(body);
            }
            framing = framing.saturating_add(head);
            let size = usize::try_from(size).unwrap_or(usize::MAX);
            if framing > MAX_FRAMING || size > limit.saturating_sub(body.len()) {
                return Err(too_long(limit));
            }
            let end = head.saturating_add(size);
            self.at_least(end.saturating_add(2))?;
            body.extend(self.bytes.drain(..end).skip(head));
            if !self.bytes.starts_with(b"\r\n") {
                return Err(wrong("expected the end of a chunk, found more of it"));
            }
            self.bytes.drain(..2);
        }
    }
}

fn too_long(limit: usize) -> io::Error {
    wrong(format!("expected a body of at most {limit} bytes, found more"))
}

fn wrong(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server whose answer is fixed, and comes in pieces of three bytes.
    struct Fixed<'a>(&'a [u8]);

    impl Read for Fixed<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = self.0.len().min(buffer.len()).min(3);
            buffer[..length].copy_from_slice(&self.0[..length]);
            self.0 = &self.0[length..];
            Ok(length)
        }
    }

    impl Write for Fixed<'_> {
        fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
            Ok(buffer.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn ask(answer: &str) -> Result<(u16, String), String> {
        let found = get(&mut Fixed(answer.as_bytes()), "host", "/", 10).map_err(|error| error.to_string())?;
        Ok((found.status, String::from_utf8(found.body).unwrap()))
    }

    #[test]
    fn every_framing_is_read() {
        let ok = Ok((200, "0123456789".to_owned()));
        assert_eq!(ask("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789trailing"), ok);
        assert_eq!(ask("HTTP/1.1 200 OK\r\n\r\n0123456789"), ok);
        assert_eq!(ask("HTTP/1.1 103 Early\r\n\r\nHTTP/1.0 200 OK\r\n\r\n0123456789"), ok);
        assert_eq!(
            ask(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6;x=y\r\n012345\r\n4\r\n6789\r\n0\r\n\r\n"
            ),
            ok
        );
        assert_eq!(ask("HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"), Ok((404, String::new())));
    }

    #[test]
    fn what_is_too_long_or_cut_off_is_refused() {
        let long = Err("expected a body of at most 10 bytes, found more".to_owned());
        assert_eq!(ask("HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n01234567890"), long);
        assert_eq!(ask("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"), long);
        assert_eq!(ask("HTTP/1.1 200 OK\r\n\r\n01234567890"), long);
        assert_eq!(
            ask(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n012345\r\n5\r\n67890\r\n0\r\n\r\n"
            ),
            long
        );
        assert_eq!(ask("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n"), long);
        for bad in [
            "",
            "SSH-2.0-OpenSSH\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n0123",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n0123\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01",
        ] {
            assert!(ask(bad).unwrap_err().starts_with("expected") || bad.contains("-1"), "{bad}");
        }
        let head = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(MAX_HEAD));
        assert_eq!(ask(&head).unwrap_err(), "expected a head of at most 65536 bytes, found more");
    }
}
