//! kafka-vitals finds the Kafka broker that is alive but not working.
//!
//! The way of the data, in which nothing flows backwards:
//!
//! ```text
//! discover  ->  collect  ->  snapshot  ->  diagnose  ->  expose
//! which JVMs    one room     plain,        pure          metrics, page,
//! are brokers   per source   immutable     functions     health, command line
//! ```
//!
//! - [`sys`], [`kafka`], [`parse`] are mechanisms: they know nothing of a broker's health.
//! - [`collect`] runs them in rounds with deadlines and turns what they say into readings.
//! - [`snapshot`] holds the newest readings; a reading is known with its age, or unknown with its reason.
//! - [`diagnose`] does no input or output and takes time as an argument.
//! - [`evidence`] saves what a verdict rests on before anybody restarts the broker.
//! - [`expose`] decides nothing: it renders the newest snapshot and never touches the broker.
//!
//! `unsafe` lives in [`sys`] alone.

#[forbid(unsafe_code)]
pub mod cli;
#[forbid(unsafe_code)]
pub mod collect;
#[forbid(unsafe_code)]
pub mod config;
#[forbid(unsafe_code)]
pub mod diagnose;
#[forbid(unsafe_code)]
pub mod discover;
#[forbid(unsafe_code)]
pub mod evidence;
#[forbid(unsafe_code)]
pub mod exec_probe;
#[forbid(unsafe_code)]
pub mod expose;
#[forbid(unsafe_code)]
pub mod failure;
#[forbid(unsafe_code)]
pub mod judging;
#[forbid(unsafe_code)]
pub mod kafka;
#[forbid(unsafe_code)]
mod named;
#[forbid(unsafe_code)]
pub mod parse;
#[forbid(unsafe_code)]
pub mod record;
#[forbid(unsafe_code)]
pub mod replay;
#[forbid(unsafe_code)]
pub mod snapshot;
pub mod sys;
