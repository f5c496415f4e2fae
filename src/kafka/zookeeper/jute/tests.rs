//! The bytes are those of ZooKeeper 3.4.8, recorded between its own shell and a server.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;

use proptest::prelude::*;

/// zxid 99, no error.
fn header(code: i32) -> Vec<u8> {
    let mut body = 99_i64.to_be_bytes().to_vec();
    body.extend(code.to_be_bytes());
    body
}

fn with_length(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as i32).to_be_bytes(), bytes].concat()
}

proptest! {
    #[test]
    fn what_is_encoded_is_read(
        names in prop::collection::vec("[0-9a-z]{0,20}", 0..20), data in prop::collection::vec(any::<u8>(), 0..200),
        id: i64, password: [u8; PASSWORD], timeout in 0..i32::MAX, code in prop::option::of(-200..0_i32),
    ) {
        let fields: Vec<u8> = names.iter().flat_map(|name| with_length(name.as_bytes())).collect();
        let count = (names.len() as i32).to_be_bytes().to_vec();
        let body = [header(code.unwrap_or(0)), count, fields].concat();
        let read = children(&body).unwrap();
        prop_assert_eq!(read, code.map_or(Ok(names.iter().map(String::as_str).collect()), Err));
        let body = [header(code.unwrap_or(0)), with_length(&data), vec![1; STAT]].concat();
        prop_assert_eq!(super::data(&body).unwrap(), code.map_or(Ok(&data[..]), Err));
        let body = [timeout.to_be_bytes().to_vec(), id.to_be_bytes().to_vec(), with_length(&password), vec![1]].concat();
        let found = connected(&body).unwrap();
        let session = SessionId { id, password };
        prop_assert!(found.session == session);
        prop_assert_eq!(found.timeout.as_millis(), timeout as u128);
        // No beginning of a message is one.
        for end in 0..body.len() - 1 {
            prop_assert!(connected(&body[..end]).is_err());
        }
    }

    #[test]
    fn any_bytes_are_an_answer_or_an_error(body in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = (children(&body).is_ok(), super::data(&body).is_ok(), connected(&body).is_ok());
    }

    #[test]
    fn a_truncated_answer_is_an_error(names in prop::collection::vec("[0-9]{0,5}", 0..5), data in prop::collection::vec(any::<u8>(), 0..20)) {
        let fields: Vec<u8> = names.iter().flat_map(|name| with_length(name.as_bytes())).collect();
        let body = [header(0), (names.len() as i32).to_be_bytes().to_vec(), fields].concat();
        for end in 0..body.len() {
            prop_assert!(children(&body[..end]).is_err());
        }
        let body = [header(0), with_length(&data), vec![1; STAT]].concat();
        for end in 0..body.len() {
            prop_assert!(super::data(&body[..end]).is_err());
        }
    }
}
