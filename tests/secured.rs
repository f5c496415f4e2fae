//! TLS and logins on a real cluster; `tests/qualify/secured.rs` has the other versions.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use lab::versions::Mode;
use support::secured::Secured;

#[test]
fn kafka_3_9_1() {
    let secured = Secured::start("3.9.1", Mode::KraftCombined);
    secured.right_credentials_read_everything();
    secured.the_broker_s_own_login_reads_everything();
    secured.mistakes_are_explained();
    secured.other_ports_than_the_files_say_are_explained();
}
