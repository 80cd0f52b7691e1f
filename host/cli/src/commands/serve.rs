//! `baton serve`: a host.

use std::net::SocketAddr;

use baton_app::embedded::Embedded;
use baton_app::{Ended, Signals};
use baton_engine::CompileSpeed;

use crate::args::{Common, Serve};
use crate::exit::Exit;
use crate::logging::{self, Style};
use crate::settings::Settings;

pub(crate) async fn run(common: &Common, serve: &Serve) -> anyhow::Result<Exit> {
    let settings = Settings::read(common)?;
    let _log = logging::start(Style::Serve)?;
    host(&settings, serve, CompileSpeed::Full, |_| tracing::info!("ready")).await
}

/// Runs a host, and the embedded Redis if no URL was given. `ready` is called once calls are
/// taken, with the address of HTTP if it is served.
pub(crate) async fn host(
    settings: &Settings,
    serve: &Serve,
    compile: CompileSpeed,
    ready: impl FnOnce(Option<SocketAddr>),
) -> anyhow::Result<Exit> {
    let mut config = settings.host(settings.redis_url().unwrap_or_default(), serve, compile)?;
    // Caught before anything is started, so that nothing is left running.
    let mut signals = Signals::catch()?;
    let embedded = match settings.redis_url() {
        Some(_) => None,
        None => Some(Embedded::start(settings.data()).await?),
    };
    if let Some(embedded) = &embedded {
        config.broker.url = embedded.url().to_owned();
    }
    let ended = baton_app::run(config, &mut signals, ready).await;
    if let Some(embedded) = embedded {
        embedded.stop().await;
    }
    Ok(match ended? {
        Ended::InOrder => Exit::Ok,
        Ended::AtOnce | Ended::ByFault => Exit::Failed,
    })
}
