//! The life of a process. What a crashed one has left running reaches nobody: its calls to the bus
//! and to the log never return.

use tokio_util::sync::CancellationToken;

/// One process, from its start to its crash.
#[derive(Debug, Clone, Default)]
pub(crate) struct Life(CancellationToken);

impl Life {
    pub(crate) fn end(&self) {
        self.0.cancel();
    }

    pub(crate) async fn ended(&self) {
        self.0.cancelled().await;
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Goes on while the process lives, and never after.
    pub(crate) async fn go_on(&self) {
        if self.0.is_cancelled() {
            std::future::pending::<()>().await;
        }
    }
}
