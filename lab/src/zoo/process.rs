//! Brokers that are stopped, pause, or run out of handles, and connections that nobody accepts or closes.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::scenario::{About, Scenario, Struck};
use super::score::Expected;
use super::stage::Stage;
use crate::cli_tools::open_handles;
use crate::hosts::run;

const SICK: i32 = 2;

pub fn all() -> Vec<Box<dyn Scenario>> {
    vec![
        Box::new(Stopped),
        Box::new(Handles {
            about: About {
                name: "handle-limit",
                kind: 20,
                what: "prlimit: 10 more handles than are open, and 40 connections",
                expected: Expected {
                    findings: &["file_handle_exhaustion", "ended"],
                    cause: &["handle|too many open files"],
                    gray: false,
                    before_harm: false,
                },
            },
            room: 10,
            connections: (40, Duration::ZERO),
            held: None,
        }),
        Box::new(Handles {
            about: About {
                name: "socket-leak",
                kind: 6,
                what: "10 connections a second that nobody closes, and room for 1,000",
                expected: Expected {
                    findings: &["file_handle_exhaustion", "file_handle_leak"],
                    cause: &["socket|connection"],
                    gray: false,
                    before_harm: true,
                },
            },
            room: 1_000,
            connections: (900, Duration::from_millis(100)),
            held: None,
        }),
        Box::new(Acceptor { held: None }),
    ]
}

struct Stopped;

impl Scenario for Stopped {
    fn about(&self) -> About {
        About {
            name: "stopped",
            kind: 12,
            what: "SIGSTOP",
            expected: Expected {
                findings: &["process_stopped"],
                cause: &["stopped"],
                gray: true,
                before_harm: false,
            },
        }
    }

    fn strike(&mut self, stage: &mut Stage) -> Result<Struck> {
        let struck = Struck::now(&[SICK]);
        stage.cluster.pause(SICK)?;
        Ok(struck)
    }

    fn heal(&mut self, stage: &mut Stage) -> Result<()> {
        stage.cluster.resume(SICK)
    }
}

/// Connections that are opened one after the other and held; dropping it closes them.
struct Held {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Held {
    fn start(stage: &Stage, address: SocketAddr, count: usize, apart: Duration) -> Result<Held> {
        let network = stage.cluster.cell().network()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let run = move || {
            if network.enter().is_err() {
                return;
            }
            let mut held = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                if held.len() < count {
                    held.extend(TcpStream::connect_timeout(&address, Duration::from_secs(1)));
                }
                let filled = held.len() == count;
                thread::sleep(if filled {
                    Duration::from_millis(50)
                } else {
                    apart
                });
            }
        };
        let thread = thread::Builder::new().name("held".into()).spawn(run)?;
        Ok(Held {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Handles {
    about: About,
    /// How many more than are open the limit allows.
    room: usize,
    /// How many are opened, and the time between two.
    connections: (usize, Duration),
    held: Option<Held>,
}

impl Scenario for Handles {
    fn about(&self) -> About {
        self.about
    }

    fn lasts(&self) -> Duration {
        Duration::from_secs(90)
    }

    fn strike(&mut self, stage: &mut Stage) -> Result<Struck> {
        let broker = stage.cluster.broker(SICK)?;
        let limit = (open_handles(broker.pid()?)? + self.room).to_string();
        let pid = broker.cell_pid()?.to_string();
        let nofile = format!("--nofile={limit}:{limit}");
        run(&broker.host().cell, &["prlimit", "--pid", &pid, &nofile])?;
        let struck = Struck::now(&[SICK]);
        let (count, apart) = self.connections;
        self.held = Some(Held::start(stage, broker.address(), count, apart)?);
        Ok(struck)
    }

    fn heal(&mut self, stage: &mut Stage) -> Result<()> {
        self.held = None;
        stage.replace(SICK)
    }
}

/// The thread that accepts connections sleeps, and a burst of connections comes.
struct Acceptor {
    held: Option<Held>,
}

impl Scenario for Acceptor {
    fn about(&self) -> About {
        About {
            name: "accept-queue",
            kind: 22,
            what: "the acceptor sleeps, and 60 clients connect",
            expected: Expected {
                findings: &["accept_queue_full", "stalled_pool", "listener_unresponsive"],
                cause: &["acceptor|accept queue"],
                gray: false,
                before_harm: true,
            },
        }
    }

    fn strike(&mut self, stage: &mut Stage) -> Result<Struck> {
        let at = stage.harm(SICK, "acceptor", true)?;
        let address = stage.cluster.broker(SICK)?.address();
        self.held = Some(Held::start(stage, address, 60, Duration::ZERO)?);
        Ok(Struck {
            at,
            sick: vec![SICK],
        })
    }

    fn heal(&mut self, stage: &mut Stage) -> Result<()> {
        self.held = None;
        stage.replace(SICK)
    }
}
