//! TLS and logins on real clusters of the versions that `tests/secured.rs` leaves out.

use lab::versions::Mode;

use super::support::secured::Secured;

fn credentials((version, mode): (&str, Mode)) {
    let secured = Secured::start(version, mode);
    secured.right_credentials_read_everything();
    secured.the_broker_s_own_login_reads_everything();
    secured.mistakes_are_explained();
    secured.other_ports_than_the_files_say_are_explained();
}

tests! { credentials:
    credentials_0_10_1_0(("0.10.1.0", Mode::ZooKeeper));
    credentials_2_8_2(("2.8.2", Mode::ZooKeeper));
    credentials_3_9_1_with_zookeeper(("3.9.1", Mode::ZooKeeper));
    credentials_4_3_0(("4.3.0", Mode::KraftCombined));
}
