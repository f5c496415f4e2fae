//! `kafka-vitals` without a subcommand: the exporter itself.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::reload::{Reloader, hangups};
use super::{block_on, evaluation, log, service, termination, write_stdout};
use crate::cli::ServeArgs;
use crate::collect::dump_service::DumpService;
use crate::config::{Config, ConfigError, InUse};
use crate::expose::connections::Server;
use crate::expose::guard::Guard;
use crate::expose::listen::bind;
use crate::expose::places::{Limits, Places};
use crate::expose::server::{self, Access, Served};
use crate::expose::web_config::{Live, WebConfig};
use crate::model::{Clock, SettingsStatus};
use crate::sys::proc::ProcRoot;
use crate::sys::systemd::{self, State};
use crate::{collect, evidence, recording};

pub fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let check_only = args.config_check;
    let config = Config::load(args.clone())?;
    if check_only {
        if let Some(path) = &config.web_config_file {
            WebConfig::load(path)?;
        }
        collect::cluster::access::check(&config).map_err(|message| {
            let path = args.config_file.unwrap_or_default();
            ConfigError::File { path, message }
        })?;
        write_stdout(b"kafka-vitals: the settings are valid\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    let inherited = if args.systemd_socket {
        systemd::listeners()
            .map_err(|error| ConfigError::Flag(format!("--web.systemd-socket: {error}")))?
    } else {
        Vec::new()
    };
    log::to_stderr(config.log_level, config.log_format);
    block_on(serve(args, config, inherited))?
}

/// Serves on the `inherited` sockets, or without any on the addresses of the flags.
async fn serve(
    args: ServeArgs,
    config: Config,
    inherited: Vec<std::net::TcpListener>,
) -> anyhow::Result<ExitCode> {
    let termination = termination()?;
    let clock = Clock::start();
    let config = Arc::new(config);
    let (settings, in_use) = watch::channel(InUse {
        config: Arc::clone(&config),
        status: SettingsStatus::started(clock.now()),
    });
    let (publish, snapshots) = watch::channel(Arc::default());
    let (publish_view, view) = watch::channel(Arc::default());
    let (publish_saved, saved) = watch::channel(Arc::default());
    let served = Served {
        view: view.clone(),
        saved: saved.clone(),
        clock,
        telemetry_path: config.telemetry_path.as_str().into(),
        port: config
            .listen
            .first()
            .map(SocketAddr::port)
            .filter(|port| *port > 0),
        answers: Arc::default(),
    };
    let web = match config.web_config_file.clone() {
        Some(path) => {
            let settings = settings.clone();
            let report = move |usable: Option<&WebConfig>| {
                settings.send_modify(|settings| {
                    settings.status.web_config_file_ok = usable.is_some();
                    if let Some(taken) = usable {
                        settings.status.web_tls = taken.tls.is_some();
                        settings.status.taken = clock.now();
                    }
                });
            };
            Some(Live::load(path, report)?)
        }
        None => None,
    };
    if let Some(web) = &web {
        let tls = web.current().await.tls.is_some();
        settings.send_modify(|settings| settings.status.web_tls = tls);
    }
    let (ask, asked) = mpsc::channel(1);
    let reload = args.enable_lifecycle.then_some(ask);
    let ready = Arc::<AtomicBool>::default();
    let reloader = Reloader {
        hangups: hangups()?,
        requests: asked,
        args,
        web: web.clone(),
        settings,
        ready: Arc::clone(&ready),
        clock,
    };
    let access = Access {
        max_requests: config.max_requests,
        guard: Guard {
            web: web.clone(),
            host_names: config.host_names.as_slice().into(),
        },
        reload,
    };
    let server = Server {
        router: server::router(served.clone(), access),
        places: Places::new(Limits::usual(config.max_connections_per_address)),
        web,
    };
    let probes = Server {
        router: server::probe_router(served),
        places: Places::new(Limits::of_probes()),
        web: None,
    };
    let mut tasks = JoinSet::new();
    if inherited.is_empty() {
        listen(&mut tasks, &config.listen, &server).await?;
    }
    for listener in inherited {
        let listener = TcpListener::from_std(listener).context("a socket of systemd")?;
        spawn(&mut tasks, listener, &server)?;
    }
    listen(&mut tasks, &config.probe_addresses, &probes).await?;
    if let Some(settings) = config.record.clone() {
        tasks.spawn(recording::run(settings, snapshots.clone(), clock));
    }
    let dumps = DumpService::new(&config.procfs);
    tasks.spawn(evaluation::run(
        snapshots,
        publish_view,
        saved,
        in_use.clone(),
        clock,
    ));
    tasks.spawn(service::report(view.clone(), ready));
    tasks.spawn(evidence::run(
        view,
        publish_saved,
        config.evidence.clone(),
        ProcRoot::new(&config.procfs),
        dumps.clone(),
        clock,
    ));
    tasks.spawn(collect::run(in_use, publish, dumps, clock));
    tasks.spawn(reloader.run());
    tokio::select! {
        () = termination => {
            systemd::notify(State::Stopping);
            tracing::info!("ending");
            Ok(ExitCode::SUCCESS)
        }
        // No task ends by itself: if one does, that is a fault which a supervisor should see.
        _ = tasks.join_next() => {
            anyhow::bail!("a part of the exporter ended by itself; the log above says why")
        }
    }
}

/// Serves at each address.
pub(super) async fn listen(
    tasks: &mut JoinSet<()>,
    addresses: &[SocketAddr],
    server: &Server,
) -> anyhow::Result<()> {
    for address in addresses {
        spawn(tasks, bind(*address).await?, server)?;
    }
    Ok(())
}

pub(super) fn spawn(
    tasks: &mut JoinSet<()>,
    listener: TcpListener,
    server: &Server,
) -> anyhow::Result<()> {
    let address = listener
        .local_addr()
        .context("cannot read the listener's own address")?;
    tracing::info!(
        %address,
        version = env!("CARGO_PKG_VERSION"),
        revision = env!("KAFKA_VITALS_REVISION"),
        "listening"
    );
    tasks.spawn(server.clone().serve(listener));
    Ok(())
}
