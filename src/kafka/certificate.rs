//! When a certificate ends. It may come from anybody: it is read here, not trusted.

use der::asn1::{AnyRef, GeneralizedTime, UtcTime};
use der::{Decode as _, SliceReader, Tag, Tagged as _};

use crate::model::Moment;

/// `notAfter` of a certificate of any version; None if it is malformed, or ended before 1970.
pub fn end(certificate: &[u8]) -> Option<Moment> {
    read(certificate).ok()
}

fn read(certificate: &[u8]) -> der::Result<Moment> {
    let whole = next(&mut SliceReader::new(certificate)?)?;
    let signed = next(&mut inside(whole)?)?;
    let fields = &mut inside(signed)?;
    // The serial number comes first in version 1, after the version in others.
    if matches!(next(fields)?.tag(), Tag::ContextSpecific { .. }) {
        next(fields)?;
    }
    let _algorithm = next(fields)?;
    let _issuer = next(fields)?;
    let validity = &mut inside(next(fields)?)?;
    let _start = next(validity)?;
    let end = next(validity)?;
    let since_1970 = match end.tag() {
        Tag::UtcTime => end.decode_as::<UtcTime>()?.to_unix_duration(),
        _ => end.decode_as::<GeneralizedTime>()?.to_unix_duration(),
    };
    Ok(Moment::default().plus(since_1970))
}

fn next<'a>(reader: &mut SliceReader<'a>) -> der::Result<AnyRef<'a>> {
    AnyRef::decode(reader)
}

fn inside(of: AnyRef<'_>) -> der::Result<SliceReader<'_>> {
    SliceReader::new(of.value())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use tokio_rustls::rustls::pki_types::CertificateDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;

    fn fixture(name: &str) -> CertificateDer<'static> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tls");
        CertificateDer::from_pem_file(format!("{folder}/{name}")).unwrap()
    }

    /// `date -d "$(openssl x509 -noout -enddate -in FILE | cut -d= -f2)" +%s`
    const ENDS: [(&str, u64); 2] = [
        // UTCTime, in a certificate of version 1, which `openssl x509 -req` makes.
        ("version-1-sha1.pem", 2_111_387_850),
        // GeneralizedTime, as from 2050 on.
        ("until-2081.pem", 3_524_027_850),
    ];

    #[test]
    fn the_end_is_what_openssl_reads() {
        for (name, seconds) in ENDS {
            assert_eq!(end(&fixture(name)), Some(Moment(seconds * 1000)), "{name}");
        }
    }

    #[test]
    fn a_malformed_certificate_has_no_end() {
        for (name, _) in ENDS {
            let whole = fixture(name);
            // What comes after the validity is not read.
            for cut in 0..100 {
                assert_eq!(end(&whole[..cut]), None, "{name} cut at {cut}");
            }
            for at in 0..whole.len() {
                for flipped in 0..8 {
                    let mut bytes = whole.to_vec();
                    bytes[at] ^= 1 << flipped;
                    // Some other date, or none: only a panic would be wrong.
                    let _ = end(&bytes);
                }
            }
        }
    }
}
