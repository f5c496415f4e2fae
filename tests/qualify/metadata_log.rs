//! As `tests/metadata_log.rs`, with the other versions and listeners.

use lab::security::Security;

use super::support::metadata_log::logs_say_what_the_tool_says;

fn agrees((version, security): (&str, Security)) {
    logs_say_what_the_tool_says(version, security);
}

tests! { agrees:
    metadata_log_3_9_1_plaintext(("3.9.1", Security::Plaintext));
    metadata_log_3_9_1_with_client_certificates_alone(("3.9.1", Security::Mtls));
    metadata_log_4_3_0_plaintext(("4.3.0", Security::Plaintext));
    metadata_log_4_3_0_with_client_certificates_alone(("4.3.0", Security::Mtls));
    metadata_log_4_3_0_with_sasl_ssl_alone(("4.3.0", Security::SaslSsl));
}
