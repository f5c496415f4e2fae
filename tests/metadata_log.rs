//! The metadata log of real KRaft nodes, read without a request, says what `kafka-topics` says at the same moment.
//! `tests/qualify/metadata_log.rs` has the other listeners.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use lab::security::Security;
use support::metadata_log::logs_say_what_the_tool_says;

#[test]
fn kafka_3_9_1_with_sasl_ssl_alone() {
    logs_say_what_the_tool_says("3.9.1", Security::SaslSsl);
}
