//! The signals that end a host.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM, SIGINT, SIGQUIT and SIGHUP: each begins a drain, and a second one, of whichever kind, ends the host at once.
pub struct Signals {
    streams: [(&'static str, Signal); 4],
}

impl Signals {
    /// Catches the signals from now on.
    ///
    /// # Errors
    /// The system's word, if it does not let them be caught.
    pub fn catch() -> std::io::Result<Self> {
        let of = |name, kind| signal(kind).map(|stream| (name, stream));
        Ok(Self {
            streams: [
                of("SIGTERM", SignalKind::terminate())?,
                of("SIGINT", SignalKind::interrupt())?,
                of("SIGQUIT", SignalKind::quit())?,
                of("SIGHUP", SignalKind::hangup())?,
            ],
        })
    }

    /// Waits for the next one and names it.
    pub async fn next(&mut self) -> &'static str {
        let [term, int, quit, hup] = &mut self.streams;
        tokio::select! {
            _ = term.1.recv() => term.0,
            _ = int.1.recv() => int.0,
            _ = quit.1.recv() => quit.0,
            _ = hup.1.recv() => hup.0,
        }
    }
}
