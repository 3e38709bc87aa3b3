//! A forwarder in front of the database that understands as much of its protocol as it takes to
//! refuse writes, as a server does whose operator has blocked them (`setUserWriteBlockMode`).

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result, ensure};
use mongodb::bson::{doc, serialize_to_vec};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Mutex, watch},
    task::{JoinHandle, JoinSet},
};

/// Length, number, number of the message that it answers, and kind: four bytes each.
const HEADER_BYTES: usize = 16;

/// The only kind of message that servers of our day exchange with their clients.
const OP_MSG: i32 = 2013;

/// The largest message that a server takes.
const MESSAGE_BYTES_MAX: usize = 48_000_000;

/// Commands that write.
const WRITES: [&[u8]; 4] = [b"insert", b"update", b"delete", b"findAndModify"];

/// Forwards connections to a database. Dropping it closes them.
#[derive(Debug)]
pub struct Refusal {
    /// Where it listens.
    pub address: SocketAddr,
    refuses: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Refusal {
    /// Listens on a free port and refuses nothing yet.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let refuses = watch::Sender::new(false);
        let seen = refuses.subscribe();
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let seen = seen.clone();
                connections.spawn(async move {
                    // Its end is told by closing the connection.
                    drop(connect(near, target, seen).await);
                });
            }
        });
        Ok(Self {
            address,
            refuses,
            accepting,
        })
    }

    /// Refuses writes from now on, or no longer.
    pub fn refuse(&self, refuses: bool) {
        self.refuses.send_replace(refuses);
    }
}

impl Drop for Refusal {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn connect(
    near: TcpStream,
    target: SocketAddr,
    refuses: watch::Receiver<bool>,
) -> Result<()> {
    let far = TcpStream::connect(target).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    // Answers of the server and of ours go to the same client, each whole.
    let near_out = Arc::new(Mutex::new(near_out));
    tokio::select! {
        ended = requests(near_in, far_out, &near_out, refuses) => ended,
        ended = answers(far_in, &near_out) => ended,
    }
}

async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    back: &Mutex<OwnedWriteHalf>,
    refuses: watch::Receiver<bool>,
) -> Result<()> {
    loop {
        let message = read(&mut from).await?;
        if *refuses.borrow() && is_write(&message) {
            back.lock().await.write_all(&refusal(&message)?).await?;
        } else {
            to.write_all(&message).await?;
        }
    }
}

async fn answers(mut from: OwnedReadHalf, to: &Mutex<OwnedWriteHalf>) -> Result<()> {
    loop {
        let message = read(&mut from).await?;
        to.lock().await.write_all(&message).await?;
    }
}

/// One message, with its header.
async fn read(from: &mut OwnedReadHalf) -> Result<Vec<u8>> {
    let mut message = vec![0; HEADER_BYTES];
    from.read_exact(&mut message).await?;
    let length = usize::try_from(number(&message, 0)?)?;
    ensure!(
        (HEADER_BYTES..=MESSAGE_BYTES_MAX).contains(&length),
        "a message of {length} bytes"
    );
    message.resize(length, 0);
    from.read_exact(&mut message[HEADER_BYTES..]).await?;
    Ok(message)
}

fn number(message: &[u8], at: usize) -> Result<i32> {
    let bytes = message.get(at..at + 4).context("a message that is cut")?;
    Ok(i32::from_le_bytes(bytes.try_into()?))
}

/// A command is the name of its document's first field: behind the header are flags (4 bytes), the
/// kind of section (1), the document's length (4), and the field's type (1).
fn is_write(message: &[u8]) -> bool {
    let name = message
        .get(HEADER_BYTES + 10..)
        .and_then(|rest| rest.split(|&byte| byte == 0).next());
    number(message, 12).is_ok_and(|kind| kind == OP_MSG)
        && name.is_some_and(|name| WRITES.contains(&name))
}

/// What a server answers whose writes are blocked. Not *not primary*: that changes what a client
/// takes the server for, and a server that became primary again would tell its clients so.
fn refusal(message: &[u8]) -> Result<Vec<u8>> {
    let document = serialize_to_vec(&doc! {
        "ok": 0.0,
        "errmsg": "User writes blocked",
        "code": 371,
        "codeName": "UserWritesBlocked",
    })?;
    let answered = number(message, 4)?;
    let length = i32::try_from(HEADER_BYTES + 5 + document.len())?;
    let mut answer = Vec::new();
    for field in [length, 0, answered, OP_MSG, 0] {
        answer.extend(field.to_le_bytes());
    }
    answer.push(0);
    answer.extend(document);
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(name: &str) -> Vec<u8> {
        let document = serialize_to_vec(&doc! { name: "tasks" }).expect("it is small");
        let mut message = vec![0; HEADER_BYTES + 5];
        message[12..16].copy_from_slice(&OP_MSG.to_le_bytes());
        message.extend(document);
        message
    }

    #[test]
    fn commands_that_write_are_told_from_others() {
        assert!(is_write(&command("insert")));
        assert!(is_write(&command("update")));
        assert!(!is_write(&command("find")));
        assert!(!is_write(&command("inserts")));
        assert!(!is_write(b"cut"));
    }

    #[test]
    fn a_refusal_says_its_length_and_what_it_answers() {
        let mut asked = command("insert");
        asked[4..8].copy_from_slice(&77_i32.to_le_bytes());
        let answer = refusal(&asked).expect("it can be made");
        assert_eq!(number(&answer, 0).ok(), i32::try_from(answer.len()).ok());
        assert_eq!(number(&answer, 8).ok(), Some(77));
    }
}
