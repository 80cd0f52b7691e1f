//! `baton dev`: a host, a builder for plugin crates, and each call in the window.

use baton_app::Builder;
use baton_engine::CompileSpeed;
use tokio_util::sync::CancellationToken;

use crate::args::{Common, Serve};
use crate::commands::serve;
use crate::exit::Exit;
use crate::logging::{self, Style};
use crate::settings::Settings;

pub(crate) async fn run(common: &Common, args: &Serve) -> anyhow::Result<Exit> {
    let settings = Settings::read(common)?;
    let _log = logging::start(Style::Dev)?;
    let stop = CancellationToken::new();
    let folder = args.plugins.clone().unwrap_or_else(|| settings.plugins().to_owned());
    let builder = (!args.no_functions).then(|| tokio::spawn(Builder::new(folder.clone()).run(stop.clone())));
    let exit = serve::host(&settings, args, CompileSpeed::Quick, |http| {
        tracing::info!("ready: save a source or a component in {} and the next call runs it", folder.display());
        if let Some(address) = http {
            tracing::info!("call over HTTP: curl http://{address}/v1/call/NAME -d '{{}}'");
        }
    })
    .await;
    stop.cancel();
    if let Some(builder) = builder {
        _ = builder.await;
    }
    exit
}
