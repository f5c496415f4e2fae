use proptest::prelude::*;

use super::*;

const PASSWORD: &str = "pencil";
const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";

fn keys(hash: Hash, challenge: &Challenge<'_>) -> Keys {
    Keys::derive(hash, PASSWORD, &challenge.salt, challenge.iterations)
}

fn conversation(hash: Hash, server_first: &str, client_last: &str, server_last: &str) {
    let exchange = Exchange::new("user", NONCE);
    assert_eq!(exchange.first(), format!("n,,n=user,r={NONCE}"));
    let challenge = exchange.challenge(server_first.as_bytes()).unwrap();
    let keys = keys(hash, &challenge);
    let (last, expected) = exchange.prove(&challenge, &keys);
    assert_eq!(last, client_last);
    assert_eq!(expected.check(server_last.as_bytes()), Ok(()));
}

#[test]
fn the_conversation_of_rfc_7677() {
    conversation(
        Hash::Sha256,
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
    );
}

/// No RFC has one for SHA-512: this one is by Python's `hashlib` and `hmac`.
#[test]
fn a_conversation_with_sha_512() {
    conversation(
        Hash::Sha512,
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=8192",
        "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=6HZ5rUA3PgkE/X3DbWzXrokJFsM9zr9o7EgisWdnKczXrIzjgD4BKpBTn7XAOVwLeZUg1pFRTcesJnSwFTQsIw==",
        "v=RqO11yK/xS8vUqXJmCYvXcKjTIkTicWzQEDh94upkSMgEZfW9mqg9ws9DPT5rQ74uE1weAEpGS1Y6Q6l6KVKXw==",
    );
}

#[test]
fn commas_and_equal_signs_of_a_name_are_escaped() {
    let exchange = Exchange::new("a=b,c", "n");
    assert_eq!(exchange.first(), "n,,n=a=3Db=2Cc,r=n");
}

#[test]
fn what_no_honest_server_sends_is_refused() {
    use ScramError as E;
    let exchange = Exchange::new("user", "abc");
    let iterations = |count: &str| E::Iterations(count.to_owned());
    let long = "x".repeat(MOST_NONCE);
    let table = [
        ("", E::Malformed("nonce")),
        ("m=ext,r=abcd,s=AAAA,i=4096", E::Malformed("nonce")),
        ("r=abc,s=AAAA,i=4096", E::Nonce),
        ("r=abd1,s=AAAA,i=4096", E::Nonce),
        ("r=,s=AAAA,i=4096", E::Nonce),
        ("r=abc\u{e9},s=AAAA,i=4096", E::Malformed("nonce")),
        (
            &*format!("r=abc{long},s=AAAA,i=4096"),
            E::Malformed("nonce"),
        ),
        ("r=abcd", E::Malformed("salt")),
        ("r=abcd,s=?,i=4096", E::Malformed("salt")),
        (
            &*format!("r=abcd,s={},i=4096", "A".repeat(MOST_SALT + 4)),
            E::Malformed("salt"),
        ),
        ("r=abcd,s=AAAA", E::Malformed("number of iterations")),
        ("r=abcd,s=AAAA,i=", E::Malformed("number of iterations")),
        (
            "r=abcd,s=AAAA,i=-4096",
            E::Malformed("number of iterations"),
        ),
        (
            "r=abcd,s=AAAA,i=4096x",
            E::Malformed("number of iterations"),
        ),
        ("r=abcd,s=AAAA,i=0", iterations("0")),
        ("r=abcd,s=AAAA,i=1", iterations("1")),
        ("r=abcd,s=AAAA,i=4095", iterations("4095")),
        ("r=abcd,s=AAAA,i=1000001", iterations("1000001")),
        ("r=abcd,s=AAAA,i=4294967296", iterations("4294967296")),
        (
            "r=abcd,s=AAAA,i=99999999999999999999999999",
            iterations("99999999999999999999"),
        ),
    ];
    for (message, expected) in table {
        assert_eq!(
            exchange.challenge(message.as_bytes()).err(),
            Some(expected),
            "{message}"
        );
    }
    assert_eq!(
        exchange.challenge(b"r=\xff,s=AAAA,i=4096").err(),
        Some(E::Malformed("text"))
    );
    for message in ["r=abcd,s=AAAA,i=4096", "r=abcd,s=,i=1000000,x=more"] {
        assert!(exchange.challenge(message.as_bytes()).is_ok(), "{message}");
    }
}

#[test]
fn a_server_that_does_not_know_the_password_is_not_believed() {
    use ScramError as E;
    let exchange = Exchange::new("user", "abc");
    let challenge = exchange.challenge(b"r=abcd,s=AAAA,i=4096").unwrap();
    let keys = keys(Hash::Sha256, &challenge);
    let (_, expected) = exchange.prove(&challenge, &keys);
    let another = STANDARD.encode([0; 32]);
    let short = STANDARD.encode([0; 31]);
    let table = [
        ("", E::Malformed("signature")),
        ("v=", E::Signature),
        (&*format!("v={another}"), E::Signature),
        (&*format!("v={short}"), E::Signature),
        ("v=?", E::Malformed("signature")),
        ("r=abcd,s=AAAA,i=4096", E::Malformed("signature")),
        ("e=invalid-proof", E::Refused("invalid-proof".into())),
        ("e=a\nb c", E::Refused("abc".into())),
    ];
    for (message, error) in table {
        assert_eq!(expected.check(message.as_bytes()), Err(error), "{message}");
    }
    assert_eq!(expected.check(b"\xff"), Err(E::Malformed("text")));
}

proptest! {
    #[test]
    fn any_message_is_taken_or_refused(bytes: Vec<u8>, text in "[rsievm=,a-c0-9]{0,40}") {
        let exchange = Exchange::new("user", "a");
        let keys = Keys { hash: Hash::Sha256, client: vec![1; 32].into(), server: vec![2; 32].into() };
        for message in [&*bytes, text.as_bytes(), format!("r=a{text},s={text},i=4096").as_bytes()] {
            if let Ok(challenge) = exchange.challenge(message) {
                prop_assert!((LEAST_ITERATIONS..=MOST_ITERATIONS).contains(&challenge.iterations.get()));
                let (_, expected) = exchange.prove(&challenge, &keys);
                prop_assert!(expected.check(message).is_err());
            }
        }
    }
}
