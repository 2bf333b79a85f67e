//! Who asks the server to stop, and how everybody hears of it.

use tokio::sync::watch;

/// How far the stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Serving,
    /// No longer ready; connections are still accepted, for load balancers that have not heard yet.
    Unready,
    /// Nothing new: listeners close, connections end after what they are answering.
    Draining,
    /// Out of patience: what is still open is cut.
    Cut,
}

/// Announces the phases. One per process.
pub struct Announcer(watch::Sender<Phase>);

/// Hears of the phases; a clone is cheap.
#[derive(Clone)]
pub struct Listener(watch::Receiver<Phase>);

/// The two ends.
pub fn channel() -> (Announcer, Listener) {
    let (sender, receiver) = watch::channel(Phase::Serving);
    (Announcer(sender), Listener(receiver))
}

impl Announcer {
    /// Moves on to `phase`; never back.
    pub fn announce(&self, phase: Phase) {
        self.0.send_if_modified(|now| {
            let later = phase > *now;
            *now = (*now).max(phase);
            later
        });
    }
}

impl Listener {
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Waits until a phase after this one; for ever where nobody is left to announce it.
    pub async fn after(&mut self, phase: Phase) {
        if self.0.wait_for(|now| *now > phase).await.is_err() {
            std::future::pending().await
        }
    }

    /// Waits until `phase` or a later one; at once where it has come, or where nobody is left to announce it.
    pub async fn reached(&mut self, phase: Phase) {
        let _ = self.0.wait_for(|now| *now >= phase).await;
    }
}

/// Resolves at the next SIGTERM or SIGINT from this call on, polled or not; the name of the signal is for the log.
///
/// # Errors
/// Signals cannot be received.
pub fn asked() -> std::io::Result<impl Future<Output = &'static str>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_only_go_forward() {
        let (announcer, listener) = channel();
        announcer.announce(Phase::Draining);
        announcer.announce(Phase::Unready);
        assert_eq!(listener.phase(), Phase::Draining);
    }
}
