//! kafka-vitals finds the Kafka broker that is alive but not working.
//!
//! # The way of the data
//!
//! ```text
//! discover  ->  collect  ->  model::Snapshot  ->  verdict  ->  expose, evidence
//! which JVMs    one file     plain data,          pure         metrics, page, API,
//! are brokers   per source   never changed        functions    check, liveness, bundles
//! ```
//!
//! # The map: where to look, and what may use what
//!
//! A part may use those above it in this list that its line names. `tests/map.rs` checks this, and that no files use
//! each other in a circle.
//!
//! | part | what is there | uses |
//! |---|---|---|
//! | [`model`] | the plain data that everything speaks of: readings, brokers, snapshots | nothing |
//! | [`sys`] | mechanisms of Linux and the JVM: `/proc`, sockets, attach, performance data | model |
//! | [`kafka`] | Kafka's protocol: connections, messages, client | model |
//! | [`parse`] | the text of a thread dump, as data | model |
//! | [`threads`] | what dumps, the progress of threads and lines of the log mean: pools, deadlocks, stalls, known issues | model, parse |
//! | [`discover`] | which processes are brokers, and what their files say | model, sys |
//! | [`verdict`] | what the readings mean: rules, findings, forecasts, the sentence, liveness | model, threads |
//! | [`cli`], [`recording`], [`config`] | flags; recorded snapshots; checked settings | model; config also its neighbours, sys, threads, verdict |
//! | [`collect`] | the collectors, the frame that runs them, and what they share | all above but verdict, cli, recording |
//! | [`evidence`] | bundles: what a verdict rests on, saved before a restart | model, sys, threads, discover, verdict, config, collect |
//! | [`analyze`] | saved output of many tools and files of a metadata log, explained together | model, kafka, parse, threads, discover, verdict, evidence |
//! | [`expose`] | metrics, page, API, check, runbooks: renders the newest view and touches no broker; TLS and passwords | model, sys, threads, verdict |
//! | [`commands`] | the subcommands, one file each: they connect the parts | all above but kafka, threads, discover |
//!
//! Readings are known with their age, or unknown with their reason. `verdict`, `threads` and `parse` do no input or
//! output and take time as an argument. `unsafe` lives in [`sys`] alone.

#![warn(unreachable_pub)]

#[forbid(unsafe_code)]
pub mod analyze;
#[forbid(unsafe_code)]
pub mod cli;
#[forbid(unsafe_code)]
pub mod collect;
#[forbid(unsafe_code)]
pub mod commands;
#[forbid(unsafe_code)]
pub mod config;
#[forbid(unsafe_code)]
pub mod discover;
#[forbid(unsafe_code)]
pub mod evidence;
#[forbid(unsafe_code)]
pub mod expose;
#[forbid(unsafe_code)]
pub mod kafka;
#[forbid(unsafe_code)]
pub mod model;
#[forbid(unsafe_code)]
pub mod parse;
#[forbid(unsafe_code)]
pub mod recording;
pub mod sys;
#[forbid(unsafe_code)]
pub mod threads;
#[forbid(unsafe_code)]
pub mod verdict;
