//! When a certificate ends. It may come from anybody: it is read here, not trusted.

use der::asn1::{AnyRef, GeneralizedTime, UtcTime};
use der::{Decode as _, SliceReader, Tag, Tagged as _};

use crate::model::Moment;

/// `notAfter` of a certificate of any version; None if it is malformed, or ended before 1970.
pub(super) fn end(certificate: &[u8]) -> Option<Moment> {
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
