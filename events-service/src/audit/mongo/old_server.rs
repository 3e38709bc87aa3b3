//! Telling that a server is too old. The driver speaks only the present message format, which
//! servers before 3.6 do not know: it sees a server that hangs up, and we would say "cannot be
//! reached" of a server that is there. So it is asked once in the old format, which every server
//! answers.

use std::time::Duration;

use mongodb::{
    bson::{RawDocument, rawdoc},
    options::{HostInfo, ServerAddress},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::read;

/// What the driver needs, by its own constant: MongoDB 4.4.
pub(super) const WIRE_VERSION_MIN: i64 = 9;
/// How long the question may take.
const ASK_MAX: Duration = Duration::from_millis(500);
/// The answer is some hundred bytes; whoever sends more is no MongoDB.
const REPLY_BYTES_MAX: u32 = 64 << 10;

/// Operation code of the old question, and of its answer.
const OP_QUERY: i32 = 2004;
const OP_REPLY: i32 = 1;
/// Bytes of the answer before its document: header, flags, cursor, position, number.
const REPLY_HEADER_BYTES: usize = 36;

/// The protocol version of the first server that answers; `None` if none does.
pub(super) async fn wire_version(hosts: &HostInfo) -> Option<i64> {
    let HostInfo::HostIdentifiers(hosts) = hosts else {
        return None;
    };
    for host in hosts {
        let ServerAddress::Tcp { host, port } = host else {
            continue;
        };
        let asking = ask(host, port.unwrap_or(27017));
        if let Ok(Ok(Some(version))) = tokio::time::timeout(ASK_MAX, asking).await {
            return Some(version);
        }
    }
    None
}

/// Why such a server cannot be used.
pub(super) fn sentence(wire_version: i64) -> String {
    let release = match wire_version {
        ..=4 => "older than 3.4",
        5 => "3.4",
        6 => "3.6",
        7 => "4.0",
        _ => "4.2",
    };
    format!("the server is too old (MongoDB {release}); MongoDB 4.4 or newer is needed")
}

async fn ask(host: &str, port: u16) -> std::io::Result<Option<i64>> {
    let mut stream = TcpStream::connect((host, port)).await?;
    stream.write_all(&question()).await?;
    let length = stream.read_u32_le().await?;
    if length > REPLY_BYTES_MAX {
        return Ok(None);
    }
    let mut reply = length.to_le_bytes().to_vec();
    stream
        .take(u64::from(length.saturating_sub(4)))
        .read_to_end(&mut reply)
        .await?;
    Ok(version_in(&reply))
}

fn question() -> Vec<u8> {
    let mut body = 0i32.to_le_bytes().to_vec();
    body.extend(b"admin.$cmd\0");
    body.extend(0i32.to_le_bytes());
    // One document, and no cursor.
    body.extend((-1i32).to_le_bytes());
    body.extend(rawdoc! { "isMaster": 1 }.as_bytes());
    let length = i32::try_from(16 + body.len()).unwrap_or(i32::MAX);
    let mut message = Vec::new();
    for number in [length, 1, 0, OP_QUERY] {
        message.extend(number.to_le_bytes());
    }
    message.extend(body);
    message
}

fn version_in(reply: &[u8]) -> Option<i64> {
    if reply.get(12..16)? != OP_REPLY.to_le_bytes() {
        return None;
    }
    let document = RawDocument::from_bytes(reply.get(REPLY_HEADER_BYTES..)?).ok()?;
    let document = mongodb::bson::Document::try_from(document).ok()?;
    // The first servers had no such field.
    Some(read::integer(document.get("maxWireVersion")).unwrap_or_default())
}
