//! A forwarder in front of a server: it gives containers a way to it, and is the bad network
//! between the two, for whoever sits behind it and for nobody else.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep_until},
};

/// What is read at once. Small enough that a large message is several.
const CHUNK_BYTES: usize = 16 * 1024;

/// How many chunks are on their way while the network is slow. When they are, nothing more is read
/// and the sender's own buffers fill, as they would.
const CHUNKS_ON_THE_WAY: usize = 64;

/// What happens to the bytes that go one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// They are passed on.
    Clear,
    /// They stay where they are until the way is another: what a black hole does to a connection,
    /// since TCP sends again what nobody confirmed.
    Stalled,
    /// They arrive so much later, in their order.
    Delayed(Duration),
    /// They arrive in pieces of so many bytes, each a read of its own.
    Sliced(usize),
    /// They arrive later by `delay`, and of a hundred chunks `lost` by `resent_after` more: TCP
    /// hides a loss, but all that comes behind it waits for the second sending.
    Lossy {
        /// Of a hundred.
        lost: u8,
        /// How long all take.
        delay: Duration,
        /// When a lost one is sent again.
        resent_after: Duration,
    },
}

/// What the network is like.
#[derive(Debug, Clone, Copy)]
struct Weather {
    /// Towards the target.
    there: Way,
    /// From the target.
    back: Way,
    /// Connections are closed, and new ones as soon as they are made.
    closes: bool,
    /// Connections with a smaller number end in the middle of what they carry next.
    reset_below: u64,
    /// Connections with a smaller number pass nothing on any more, and nobody is told.
    stranded_below: u64,
}

/// What can be done to the connections of a forwarder.
#[derive(Debug)]
pub struct Network {
    weather: watch::Sender<Weather>,
    accepted: watch::Sender<u64>,
}

impl Network {
    fn clear() -> Self {
        Self {
            weather: watch::Sender::new(Weather {
                there: Way::Clear,
                back: Way::Clear,
                closes: false,
                reset_below: 0,
                stranded_below: 0,
            }),
            accepted: watch::Sender::new(0),
        }
    }

    /// Keeps connections open but passes nothing on, or goes on again.
    pub fn stall(&self, stalled: bool) {
        let way = if stalled { Way::Stalled } else { Way::Clear };
        self.ways(way, way);
    }

    /// Sets what happens on the way to the target and on the way back.
    pub fn ways(&self, there: Way, back: Way) {
        self.weather.send_modify(|weather| {
            weather.there = there;
            weather.back = back;
        });
    }

    /// Closes all connections, and new ones as soon as they are made; or takes them again.
    pub fn close(&self, closes: bool) {
        self.weather.send_modify(|weather| weather.closes = closes);
    }

    /// Resets every connection that is open now, in the middle of what it carries next.
    pub fn reset(&self) {
        let below = *self.accepted.borrow();
        self.weather
            .send_modify(|weather| weather.reset_below = below);
    }

    /// Leaves every connection that is open now open and dead: nothing is passed on, nobody is
    /// told. New ones are as good as ever.
    pub fn strand(&self) {
        let below = *self.accepted.borrow();
        self.weather
            .send_modify(|weather| weather.stranded_below = below);
    }

    /// What its connections see.
    fn view(&self) -> View {
        View {
            weather: self.weather.subscribe(),
            accepted: self.accepted.clone(),
        }
    }
}

/// The network as those see it who accept connections.
#[derive(Debug, Clone)]
struct View {
    weather: watch::Receiver<Weather>,
    accepted: watch::Sender<u64>,
}

impl View {
    /// The number of a connection that was just accepted; `None` if it is closed at once.
    fn number(&self) -> Option<u64> {
        let mut number = 0;
        self.accepted.send_modify(|accepted| {
            number = *accepted;
            *accepted += 1;
        });
        (!self.weather.borrow().closes).then_some(number)
    }
}

/// Forwards TCP connections to one target. Dropping it closes them.
#[derive(Debug)]
pub struct Forward {
    /// Where it listens.
    pub address: SocketAddr,
    /// What its connections go through.
    pub network: Network,
    target: String,
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
        let network = Network::clear();
        let accepting = tokio::spawn(accept(listener, target.to_owned(), network.view()));
        Ok(Self {
            address,
            network,
            target: target.to_owned(),
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
        let accepting = accept(listener, self.target.clone(), self.network.view());
        self.accepting = tokio::spawn(accepting);
        Ok(())
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, target: String, view: View) {
    // Dropped with this task, and with it every connection.
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        // The ended ones need not be kept.
        while connections.try_join_next().is_some() {}
        let Some(number) = view.number() else {
            continue;
        };
        let target = target.clone();
        let weather = view.weather.clone();
        connections.spawn(async move {
            // An end of the connection, whatever the reason, is told by closing it.
            drop(connect(near, &target, number, weather).await);
        });
    }
}

/// Carries one connection to its end.
async fn connect(
    mut near: TcpStream,
    target: &str,
    number: u64,
    weather: watch::Receiver<Weather>,
) -> Result<()> {
    let mut far = TcpStream::connect(target).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let ended = carry(&mut near, &mut far, number, weather).await;
    if matches!(ended, Err(Broken::Reset)) {
        // Closed with this set, the other side gets a reset instead of an end.
        near.set_zero_linger()?;
        far.set_zero_linger()?;
    }
    Ok(())
}

/// Forwards connections to a socket in the file system. Dropping it closes them.
#[derive(Debug)]
pub struct SocketForward {
    /// What its connections go through.
    pub network: Network,
    accepting: JoinHandle<()>,
}

impl SocketForward {
    /// Listens on a socket at `path`, which everybody may use.
    ///
    /// # Errors
    /// When it cannot.
    pub fn start(path: &Path, target: &Path) -> Result<Self> {
        let listener =
            UnixListener::bind(path).with_context(|| format!("listen on {}", path.display()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o666))?;
        let network = Network::clear();
        let view = network.view();
        let target = target.to_owned();
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                let Some(number) = view.number() else {
                    continue;
                };
                let target = target.clone();
                let weather = view.weather.clone();
                connections.spawn(async move {
                    if let Ok(mut far) = UnixStream::connect(target).await {
                        // As above; such a socket knows no reset.
                        drop(carry(&mut near, &mut far, number, weather).await);
                    }
                });
            }
        });
        Ok(Self { network, accepting })
    }
}

impl Drop for SocketForward {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Passes on both ways until one side ends or the weather ends it.
async fn carry(
    near: &mut (impl AsyncRead + AsyncWrite + Unpin),
    far: &mut (impl AsyncRead + AsyncWrite + Unpin),
    number: u64,
    mut weather: watch::Receiver<Weather>,
) -> Result<(), Broken> {
    let (near_in, near_out) = split(near);
    let (far_in, far_out) = split(far);
    let there = Passage::new(number, weather.clone(), |weather| weather.there);
    let back = Passage::new(number, weather.clone(), |weather| weather.back);
    tokio::select! {
        ended = there.carry(near_in, far_out) => ended,
        ended = back.carry(far_in, near_out) => ended,
        // An error: the forwarder itself has ended.
        _ = weather.wait_for(|weather| weather.closes) => Err(Broken::Closed),
    }
}

/// Why a connection ended before its time.
enum Broken {
    Reset,
    Closed,
}

/// One way of one connection.
struct Passage {
    connection: u64,
    weather: watch::Receiver<Weather>,
    way: fn(&Weather) -> Way,
    /// For the losses: always the same for the same connection.
    chunks: u64,
}

impl Passage {
    fn new(connection: u64, weather: watch::Receiver<Weather>, way: fn(&Weather) -> Way) -> Self {
        Self {
            connection,
            weather,
            way,
            chunks: 0,
        }
    }

    /// Passes on until the sender ends, the receiver closes, or the weather ends it.
    async fn carry(
        mut self,
        mut from: impl AsyncRead + Unpin,
        to: impl AsyncWrite + Unpin,
    ) -> Result<(), Broken> {
        let (sender, receiver) = mpsc::channel(CHUNKS_ON_THE_WAY);
        let writing = deliver(
            receiver,
            to,
            self.weather.clone(),
            self.connection,
            self.way,
        );
        let reading = async {
            let mut due = Instant::now();
            loop {
                let mut chunk = vec![0; CHUNK_BYTES];
                let Ok(length @ 1..) = from.read(&mut chunk).await else {
                    return;
                };
                chunk.truncate(length);
                due = due.max(Instant::now() + self.delay());
                if sender.send((due, chunk)).await.is_err() {
                    return;
                }
            }
        };
        tokio::pin!(writing);
        tokio::select! {
            ended = &mut writing => return ended,
            () = reading => {}
        }
        // The sender has ended: what is under way still arrives.
        drop(sender);
        writing.await
    }

    /// How much later the next chunk arrives.
    fn delay(&mut self) -> Duration {
        self.chunks += 1;
        match (self.way)(&self.weather.borrow()) {
            Way::Clear | Way::Stalled | Way::Sliced(_) => Duration::ZERO,
            Way::Delayed(delay) => delay,
            Way::Lossy {
                lost,
                delay,
                resent_after,
            } => {
                // A multiplier that spreads the numbers over the whole range.
                let spread =
                    (self.connection << 32 | self.chunks).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
                if spread % 100 < u64::from(lost) {
                    delay + resent_after
                } else {
                    delay
                }
            }
        }
    }
}

/// Writes what is due, as the weather allows.
async fn deliver(
    mut chunks: mpsc::Receiver<(Instant, Vec<u8>)>,
    mut to: impl AsyncWrite + Unpin,
    mut weather: watch::Receiver<Weather>,
    connection: u64,
    way: fn(&Weather) -> Way,
) -> Result<(), Broken> {
    while let Some((due, chunk)) = chunks.recv().await {
        sleep_until(due).await;
        let passes = |weather: &Weather| {
            connection < weather.reset_below
                || (way(weather) != Way::Stalled && connection >= weather.stranded_below)
        };
        let weather = *weather.wait_for(passes).await.map_err(|_| Broken::Closed)?;
        if connection < weather.reset_below {
            // Half of it and no more; that it cannot be written any more comes to the same.
            drop(to.write_all(&chunk[..chunk.len() / 2]).await);
            return Err(Broken::Reset);
        }
        let piece = match way(&weather) {
            Way::Sliced(bytes) => bytes.max(1),
            _ => chunk.len(),
        };
        for piece in chunk.chunks(piece) {
            to.write_all(piece).await.map_err(|_| Broken::Closed)?;
            if piece.len() < chunk.len() {
                // Lets the other side read it before the next comes.
                tokio::task::yield_now().await;
            }
        }
    }
    Ok(())
}
