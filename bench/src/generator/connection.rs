//! An HTTP/1.1 connection that is kept alive: as little as a caller needs, because the generator
//! shares the machine with everything it measures.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Headers of an answer; more than any service measured sends.
const HEADERS_MAX: usize = 32;
/// Bytes of an answer. The answers asked for have less than a hundred.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// A connection with one request under way at a time.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
    filled: usize,
}

/// Where things lie in the bytes read.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    /// Bytes of the head, with the empty line.
    bytes: usize,
    body: Length,
}

#[derive(Debug, PartialEq, Eq)]
enum Length {
    Known(usize),
    Chunked,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// When nobody accepts.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            read: vec![0; 1024],
            filled: 0,
        })
    }

    /// Sends a request and reads its answer whole: the status, and the body into `body`.
    ///
    /// # Errors
    /// When the connection ends, or what comes is no HTTP.
    pub(crate) async fn exchange(&mut self, request: &[u8], body: &mut Vec<u8>) -> Result<u16> {
        self.stream.write_all(request).await?;
        loop {
            ensure!(self.filled < ANSWER_BYTES_MAX, "an answer without an end");
            if self.filled == self.read.len() {
                self.read.resize(self.read.len() * 2, 0);
            }
            let count = self.stream.read(&mut self.read[self.filled..]).await?;
            ensure!(count > 0, "the connection ended before the answer did");
            self.filled += count;
            if let Some((status, bytes)) = whole_answer(&self.read[..self.filled], body)? {
                // One request at a time: nothing may follow its answer.
                ensure!(bytes == self.filled, "more came than was asked for");
                self.filled = 0;
                return Ok(status);
            }
        }
    }
}

/// The answer, if all of it has come: its status and how many bytes it has.
fn whole_answer(read: &[u8], body: &mut Vec<u8>) -> Result<Option<(u16, usize)>> {
    let Some(head) = head(read)? else {
        return Ok(None);
    };
    let rest = &read[head.bytes..];
    body.clear();
    let body_bytes = match head.body {
        Length::Known(length) if rest.len() < length => return Ok(None),
        Length::Known(length) => {
            body.extend_from_slice(&rest[..length]);
            length
        }
        Length::Chunked => match chunks(rest, body)? {
            Some(bytes) => bytes,
            None => return Ok(None),
        },
    };
    Ok(Some((head.status, head.bytes + body_bytes)))
}

fn head(read: &[u8]) -> Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(bytes) = response.parse(read).context("an answer's head")?
    else {
        return Ok(None);
    };
    let status = response.code.context("an answer without a status")?;
    let mut body = None;
    for header in response.headers {
        if header.name.eq_ignore_ascii_case("content-length") {
            let length = std::str::from_utf8(header.value)?.trim().parse()?;
            body = Some(Length::Known(length));
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            body = Some(Length::Chunked);
        }
    }
    let body = body.context("an answer whose end only the connection's end would tell")?;
    Ok(Some(Head {
        status,
        bytes,
        body,
    }))
}

/// Puts chunks together; the number of bytes they take, once the last is there.
fn chunks(mut rest: &[u8], body: &mut Vec<u8>) -> Result<Option<usize>> {
    let all = rest.len();
    loop {
        let Some(line_end) = memchr::memmem::find(rest, b"\r\n") else {
            return Ok(None);
        };
        let size = std::str::from_utf8(&rest[..line_end])?;
        let size = size.split(';').next().unwrap_or(size).trim();
        let size = usize::from_str_radix(size, 16).context("the size of a chunk")?;
        if size > ANSWER_BYTES_MAX {
            bail!("a chunk of {size} bytes");
        }
        let begin = line_end + 2;
        let Some(chunk) = rest.get(begin..begin + size + 2) else {
            return Ok(None);
        };
        body.extend_from_slice(&chunk[..size]);
        rest = &rest[begin + size + 2..];
        if size == 0 {
            return Ok(Some(all - rest.len()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<(u16, usize, String)> {
        let mut body = Vec::new();
        let (status, bytes) = whole_answer(text.as_bytes(), &mut body).unwrap()?;
        Some((status, bytes, String::from_utf8(body).unwrap()))
    }

    #[test]
    fn an_answer_is_whole_when_its_body_is() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody";
        for cut in 0..text.len() {
            assert_eq!(parse(&text[..cut]), None, "{cut}");
        }
        assert_eq!(parse(text), Some((200, text.len(), "body".into())));
    }

    #[test]
    fn chunks_are_put_together() {
        let text =
            "HTTP/1.1 503 X\r\ntransfer-encoding: chunked\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n";
        for cut in 0..text.len() {
            assert_eq!(parse(&text[..cut]), None, "{cut}");
        }
        assert_eq!(parse(text), Some((503, text.len(), "body".into())));
    }
}
