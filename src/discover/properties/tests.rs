#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Write;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::*;

/// Asks Java for the pairs of each document; None where it refuses the document.
fn java(documents: &[Vec<u8>]) -> Vec<Option<Vec<(String, String)>>> {
    let mut java = Command::new("java")
        .args([
            "-XX:TieredStopAtLevel=1",
            "tests/fixtures/properties/PrintProperties.java",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("java is needed by these tests");
    let mut input = Vec::new();
    for document in documents {
        writeln!(input, "{}", document.len()).unwrap();
        input.extend_from_slice(document);
    }
    let mut stdin = java.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = java.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines();
    let unhex = |word: &str| {
        let digits = word.strip_prefix('x').unwrap().as_bytes();
        let bytes = digits
            .chunks(2)
            .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap());
        String::from_utf8(bytes.collect()).unwrap()
    };
    documents
        .iter()
        .map(|_| match lines.next().unwrap() {
            "refused" => None,
            count => Some(
                (0..count.parse().unwrap())
                    .map(|_| {
                        let (key, value) = lines.next().unwrap().split_once(' ').unwrap();
                        (unhex(key), unhex(value))
                    })
                    .collect(),
            ),
        })
        .collect()
}

fn ours(document: &[u8]) -> Option<Vec<(String, String)>> {
    let mut pairs: Vec<_> = Properties::parse(document)
        .ok()?
        .iter()
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
    // Java sorts by UTF-16 units.
    pairs.sort_by_key(|(key, _)| key.encode_utf16().collect::<Vec<_>>());
    Some(pairs)
}

/// Draws documents from the characters that matter, so that all pairs of rules are tried. They all end in a plain line:
/// Java makes an empty key from a backslash before a final `\r`, but not before a final `\n`.
fn drawn_documents() -> Vec<Vec<u8>> {
    #[rustfmt::skip] // side by side
    const PIECES: [&[u8]; 23] = [
        b"a", b"b", b"key", b"x", b"=", b":", b" ", b"\t", b"\x0c", b"\\", b"\\\\", b"\n", b"\r", b"\r\n", b"#", b"!",
        b"\\u0041", b"\\ud83d\\ude00", b"\\n", b"\\ ", b"\xe9", b"\xc3\xa9", b"\0",
    ];
    // A malformed escape is rare: it makes Java refuse all the rest.
    let piece = prop_oneof![300 => prop::sample::select(&PIECES[..]), 1 => Just(&b"\\u00g"[..])];
    let documents = prop::collection::vec(piece, 0..14);
    let mut runner = TestRunner::deterministic();
    let mut draw = || documents.new_tree(&mut runner).unwrap().current().concat();
    (0..20_000)
        .map(|_| [&draw(), &b"\nlast"[..]].concat())
        .collect()
}

#[test]
fn agrees_with_java() {
    let table: [&[u8]; 18] = [
        b"a=b\\",
        b"a=b\\\\",
        b"",
        b"# only\n! comments\n\n",
        b"a=1\na=2",
        b"a = 1 \r\nb:2\rc 3\n",
        b"listeners=PLAINTEXT://:9092,\\\n    SSL://:9093\n",
        b"comment\\\n# not one\n",
        b"# comment \\\nreal=1\n",
        b"a=b\\\n\nc=d",
        b"\\\n#foo=bar",
        b"a\\=b=c\\:d",
        b"=value without key",
        b"key",
        b"log.dirs=/data/\xc3\xa4",
        b"path=C:\\temp\\new",
        b"smile=\\ud83d\\ude00",
        b"bad=\\u12",
    ];
    let incident = include_bytes!("../../../tests/fixtures/properties/server-218.properties");
    let mut documents: Vec<Vec<u8>> = table.iter().map(|document| document.to_vec()).collect();
    documents.push(incident.to_vec());
    documents.push(
        incident
            .iter()
            .flat_map(|b| {
                if *b == b'\n' {
                    vec![b'\r', b'\n']
                } else {
                    vec![*b]
                }
            })
            .collect(),
    );
    documents.push(b"key=value\\\n".repeat(FILE_CAP / 11));
    documents.push(
        (0..FILE_CAP / 16)
            .flat_map(|i| format!("k{i}={i}\n").into_bytes())
            .collect(),
    );
    documents.extend(drawn_documents());
    for (document, expected) in documents.iter().zip(java(&documents)) {
        let ours = ours(document);
        let shown = String::from_utf8_lossy(&document[..document.len().min(200)]);
        assert!(
            ours == expected,
            "{shown:?}: {ours:?} is not Java's {expected:?}"
        );
    }
}

#[test]
fn values_are_trimmed_as_kafka_does() {
    let properties =
        Properties::parse(b"broker.id= 7 \t\nlog.dirs= /a , /b,,/c ,\nempty=   \n").unwrap();
    assert_eq!(properties.get("broker.id"), Some("7"));
    assert_eq!(
        list(properties.get("log.dirs").unwrap()).collect::<Vec<_>>(),
        ["/a", "/b", "/c"]
    );
    assert_eq!(
        (properties.get("empty"), properties.raw("empty")),
        (None, Some(""))
    );
}

#[test]
fn values_of_config_providers_stay_literal_and_are_known_as_such() {
    let properties =
        Properties::parse(b"a=${file:/opt/secrets.properties:id}\nb=${env:ID}\nc=$5 {x}\nd=${x}\n")
            .unwrap();
    assert_eq!(
        properties.get("a"),
        Some("${file:/opt/secrets.properties:id}")
    );
    let provided =
        ["a", "b", "c", "d"].map(|key| comes_from_provider(properties.get(key).unwrap()));
    assert_eq!(provided, [true, true, false, false]);
}

#[test]
fn a_bad_escape_names_its_line() {
    assert_eq!(
        Properties::parse(b"a=1\n\nb=\\\n  \\u12x4\n"),
        Err(MalformedEscape { line: 3 })
    );
}
