//! `tests/fixtures/zookeeper` says where its bytes come from; the requests were recorded with them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;

use std::fs;

use proptest::prelude::*;

fn recorded(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/zookeeper");
    fs::read(format!("{folder}/{name}.bin")).unwrap()
}

#[test]
fn requests_are_those_of_zookeepers_own_shell() {
    let hex =
        |frame: Vec<u8>| -> String { frame.iter().map(|byte| format!("{byte:02x}")).collect() };
    // As sent by `ls /brokers/ids`, with a session of 30 s as well, and by `get /controller`.
    assert_eq!(
        hex(connect_request(None, Duration::from_secs(30))),
        "0000002d000000000000000000000000000075300000000000000000000000100000000000000000000000000000000000"
    );
    assert_eq!(
        hex(children_request(1, "/brokers/ids")),
        "0000001900000001000000080000000c2f62726f6b6572732f69647300"
    );
    assert_eq!(
        hex(data_request(1, "/controller")),
        "0000001800000001000000040000000b2f636f6e74726f6c6c657200"
    );
}

#[test]
fn recorded_answers_are_read() {
    let session = recorded("session");
    let found = connected(&session).unwrap();
    assert_eq!(found.timeout, Duration::from_secs(30));
    assert_eq!(found.session.id, 0x01a2_2ba6_d8ed_0005);
    assert_eq!(found.session.password[..4], [0xe8, 0x5b, 0xe6, 0x86]);
    // As a server before 3.4 sends it.
    assert!(connected(&session[..session.len() - 1]).unwrap() == found);
    assert_eq!(children(&recorded("children")), Ok(Ok(vec!["22", "1"])));
    let controller = br#"{"version":1,"brokerid":1,"timestamp":"1480495800001"}"#;
    assert_eq!(data(&recorded("controller")), Ok(Ok(&controller[..])));
    let broker = recorded("broker");
    let broker = data(&broker).unwrap().unwrap();
    assert!(broker.starts_with(b"{\"jmx_port\":-1,") && broker.len() == 129);
    assert_eq!(data(&recorded("no-node")), Ok(Err(NO_NODE)));
    assert_eq!(children(&recorded("no-node")), Ok(Err(NO_NODE)));
}

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
