//! A TCP forwarder in front of a server: it gives containers a way to it, and can be cut off or
//! stalled, which is an outage for whoever sits behind it and for nobody else.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// Forwards connections to one target. Dropping it closes them.
#[derive(Debug)]
pub struct Forward {
    /// Where it listens.
    pub address: SocketAddr,
    target: String,
    stalled: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

impl Forward {
    /// Listens on a free port of `ip`.
    ///
    /// # Errors
    /// When it cannot.
    pub async fn start(ip: IpAddr, target: &str) -> Result<Self> {
        let listener = TcpListener::bind((ip, 0))
            .await
            .with_context(|| format!("listen on {ip}"))?;
        let address = listener.local_addr()?;
        let stalled = watch::Sender::new(false);
        let accepting = accept(listener, target.to_owned(), stalled.subscribe());
        Ok(Self {
            address,
            target: target.to_owned(),
            stalled,
            accepting,
        })
    }

    /// Closes all connections and refuses new ones.
    pub async fn cut(&mut self) {
        self.accepting.abort();
        // Its end is the end of its listener and of all connections; that it was aborted is known.
        drop((&mut self.accepting).await);
    }

    /// Accepts connections again after [`cut`](Self::cut), on the same port.
    ///
    /// # Errors
    /// When the port was taken meanwhile.
    pub async fn restore(&mut self) -> Result<()> {
        let listener = TcpListener::bind(self.address).await?;
        self.accepting = accept(listener, self.target.clone(), self.stalled.subscribe());
        Ok(())
    }

    /// Keeps connections open but passes nothing on, or goes on again.
    pub fn stall(&self, stalled: bool) {
        self.stalled.send_replace(stalled);
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn accept(listener: TcpListener, target: String, stalled: watch::Receiver<bool>) -> JoinHandle<()> {
    tokio::spawn(async move {
        // Dropped with this task, and with it every connection.
        let mut connections = JoinSet::new();
        while let Ok((near, _)) = listener.accept().await {
            let target = target.clone();
            let stalled = stalled.clone();
            connections.spawn(async move {
                let Ok(far) = TcpStream::connect(&target).await else {
                    return;
                };
                if near.set_nodelay(true).and(far.set_nodelay(true)).is_err() {
                    return;
                }
                let (near_in, near_out) = near.into_split();
                let (far_in, far_out) = far.into_split();
                tokio::select! {
                    () = pass(near_in, far_out, stalled.clone()) => {}
                    () = pass(far_in, near_out, stalled) => {}
                }
            });
        }
    })
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut stalled: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        if stalled.wait_for(|stalled| !stalled).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
