//! Who else is there: servers that hostile functions may send requests to, somebody who must hear nothing, and a
//! neighbour's bucket.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use baton_tests::{Manner, Stage, serve};
use tokio::net::TcpListener;

/// The address of the machine that the operator opens to functions. All of 127.0.0.0/8 is the machine's own, and the
/// rest of it stays closed.
const OPENED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// What the operator says of it.
pub(crate) const SETTINGS: &str = "[security]\negress_networks = [\"127.0.0.2/32\"]\n";

/// The others, for as long as this lives.
pub(crate) struct Others {
    closed: TcpListener,
    by_name: Vec<(&'static str, SocketAddr)>,
}

impl Others {
    pub(crate) async fn start() -> Result<Self> {
        let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let into = format!("http://{}/", closed.local_addr()?);
        let by_name = vec![
            ("{listener}", closed.local_addr()?),
            ("{plain}", serve(OPENED, Manner::answer("200 OK", &[], "hello")).await?),
            ("{redirects}", serve(OPENED, Manner::answer("302 Found", &[("location", &into)], "")).await?),
            ("{floods}", serve(OPENED, Manner::Floods).await?),
            ("{drips}", serve(OPENED, Manner::Drips).await?),
            ("{silent}", serve(OPENED, Manner::Silent).await?),
        ];
        Ok(Self { closed, by_name })
    }

    /// The text with their addresses in it. `{port}` is that of `{listener}`.
    pub(crate) fn fill(&self, text: &str) -> Result<String> {
        let port = self.closed.local_addr()?.port().to_string();
        let filled = |text: String, (name, address): &(&str, SocketAddr)| text.replace(name, &address.to_string());
        Ok(self.by_name.iter().fold(text.replace("{port}", &port), filled))
    }

    /// Checks that nobody came to the one who must hear nothing.
    pub(crate) async fn heard_nothing(&self) -> Result<()> {
        let heard = tokio::time::timeout(Duration::from_millis(1), self.closed.accept()).await;
        ensure!(heard.is_err(), "a guest reached a socket: {heard:?}");
        Ok(())
    }
}

/// Puts a pair into a bucket of the tenant `friend`, under the names that the tenant `foe` gives its own.
pub(crate) async fn keep_something(stage: &mut Stage) -> Result<()> {
    let mut set = redis::cmd("HSET");
    set.arg("baton:{friend}:kv:keeper:default").arg("secret").arg("of a friend");
    Ok(set.exec_async(stage.caller.connection()).await?)
}
