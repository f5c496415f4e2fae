//! Clusters whose listeners demand TLS, a certificate or a login, and what the exporter reads of them with each.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use lab::security::{MECHANISMS, STORE_PASSWORD, USERS};
use lab::versions::Mode;
use lab::{Certificate, Cluster, ClusterOptions, Listener, Security};

use super::tools::{Readings, isr_by_kafka_topics};
use super::{Exporter, step, wait_for, wait_until_none};

/// Brokers stop and start more slowly than others read, so a reading of before is waited out.
const TIME: Duration = Duration::from_secs(60);

/// A cluster of three brokers of which the third was killed.
pub struct Secured {
    pub cluster: Cluster,
    old: bool,
    has_pem: bool,
    expected: Readings,
    /// Outside of the cell; folders in its own `/tmp` would not be seen by the exporter's host paths.
    work: tempfile::TempDir,
}

/// One run of the exporter.
pub struct Run {
    exporter: Exporter,
    config: PathBuf,
    saves_bundles: bool,
    log: PathBuf,
    record: PathBuf,
}

/// What stands in the config file besides the listener.
#[derive(Clone, Default)]
pub struct Settings<'a> {
    pub listener: &'a str,
    pub tls: String,
    pub sasl: String,
    /// Few runs need one: the same files go into each.
    pub bundles: bool,
}

impl Secured {
    /// Starts the brokers with every kind of listener that the version has.
    pub fn start(version: &str, mode: Mode) -> Secured {
        let old = version.starts_with("0.10.");
        let mut listeners = vec![
            Listener::new(Security::SaslSsl),
            Listener::new(Security::Ssl),
            Listener::new(Security::SaslPlaintext),
        ];
        if !old {
            let ssl = |name| Listener::new(Security::Ssl).named(name);
            listeners.extend([
                Listener::new(Security::Mtls).named("MTLS"),
                ssl("EXPIRED").showing(Certificate::Ends(-1)),
                ssl("WRONGNAME").showing(Certificate::WrongName),
                ssl("UNKNOWNCA").showing(Certificate::UnknownCa),
            ]);
        }
        let mut cluster = Cluster::start(ClusterOptions {
            mode: Some(mode),
            listeners,
            ..ClusterOptions::new(version)
        })
        .unwrap();
        cluster.create_topic("orders", 6, 3).unwrap();
        cluster.kill(3).unwrap();
        cluster
            .wait_until_excluded(3, Duration::from_secs(120))
            .unwrap();
        let expected = isr_by_kafka_topics(&cluster);
        assert!(
            expected["under_replicated_partitions{broker=\"1\"}"] > 0,
            "{expected:?}"
        );
        Secured {
            cluster,
            old,
            has_pem: !version.starts_with(['0', '2']),
            expected,
            work: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(),
        }
    }

    fn tls_file(&self, name: &str) -> PathBuf {
        self.cluster.tls_folder().join(name)
    }

    pub fn tls(&self) -> String {
        format!("tls: {{ca_file: {}}}\n", self.tls_file("ca.pem").display())
    }

    fn with_certificate(&self) -> String {
        let file = |name| self.tls_file(name).display().to_string();
        let (ca, own, key) = (file("ca.pem"), file("client.crt"), file("client.key"));
        format!("tls: {{ca_file: {ca}, cert_file: {own}, key_file: {key}}}\n")
    }

    pub fn sasl(&self, mechanism: &str, password: &str) -> String {
        let file = self
            .work
            .path()
            .join(format!("password-{}", password.len()));
        fs::write(&file, format!("{password}\n")).unwrap();
        let (user, file) = (USERS[2].0, file.display());
        format!("sasl: {{mechanism: {mechanism}, username: {user}, password_file: {file}}}\n")
    }

    /// Starts an exporter whose files are kept. It has the cluster's counts from requests alone.
    pub fn run(&self, settings: &Settings<'_>) -> Run {
        let number = fs::read_dir(self.work.path()).unwrap().count();
        let file = |kind: &str| self.work.path().join(format!("{kind}-{number}"));
        let (log, record, config_file) = (file("log"), file("record"), file("config"));
        let entries = [1, 2].map(|id| {
            format!(
                "  - {{match: {{id: {id}}}, probe_listener: {}}}\n",
                settings.listener
            )
        });
        let Settings { tls, sasl, .. } = settings;
        let config = format!(
            "{}collectors: {{metadata_log: false}}\nbrokers:\n{}{tls}{sasl}",
            super::versions::FAST_INTERVALS,
            entries.concat()
        );
        fs::write(&config_file, &config).unwrap();
        let exporter = Exporter::start_with(self.cluster.cell(), &config, |command| {
            command
                .arg("--record")
                .arg(&record)
                .arg("--log.level=debug")
                .stderr(Stdio::from(fs::File::create(&log).unwrap()));
        });
        Run {
            exporter,
            config: config_file,
            saves_bundles: settings.bundles,
            log,
            record,
        }
    }

    /// Every kind of listener with the right credentials: all counts are those of `kafka-topics`, and the peer answers.
    pub fn right_credentials_read_everything(&self) {
        let password = USERS[2].1;
        let mechanisms = if self.old {
            &MECHANISMS[..1]
        } else {
            &MECHANISMS
        };
        let mut kinds = vec![
            // Without any setting the certificate is not verified, and nothing is demanded.
            ("SSL", String::new(), String::new()),
            ("SSL", self.tls(), String::new()),
        ];
        if !self.old {
            kinds.push(("MTLS", self.with_certificate(), String::new()));
        }
        for mechanism in mechanisms {
            let sasl = self.sasl(mechanism, password);
            kinds.push(("SASL_PLAINTEXT", String::new(), sasl.clone()));
            kinds.push(("SASL_SSL", self.tls(), sasl));
        }
        for (listener, tls, sasl) in kinds {
            step(&format!("{listener} {}", sasl.trim()), || {
                let run = self.run(&Settings {
                    listener,
                    tls,
                    sasl: sasl.clone(),
                    bundles: false,
                });
                run.reads(self, &format!("{listener} {sasl}"));
                run.shows_no_secret(self, &[]);
            });
        }
    }

    /// Nothing else is configured: the brokers' own login, and where they have PEM files their certificates.
    pub fn the_broker_s_own_login_reads_everything(&self) {
        let tls = match self.has_pem {
            true => String::new(),
            false => self.tls(),
        };
        let settings = Settings {
            listener: "SASL_SSL",
            tls,
            sasl: "credentials: inter_broker\n".into(),
            bundles: true,
        };
        step("credentials: inter_broker", || {
            let run = self.run(&settings);
            run.reads(self, "credentials: inter_broker");
            run.shows_no_secret(self, &[]);
        });
        if !self.has_pem {
            let settings = Settings {
                tls: String::new(),
                ..settings
            };
            let shown = "is a keystore of the type PKCS12, which is not read here";
            step(shown, || {
                let run = self.run(&settings);
                run.has_logged(shown);
                run.reads_the_process();
                run.shows_no_secret(self, &[]);
            });
        }
    }

    /// Each mistake has a message with the remedy, other readings go on, and nothing is silent or gray for it.
    pub fn mistakes_are_explained(&self) {
        let wrong = "wr0ng+in%the:lab";
        let other_ca = self.tls().replace("ca.pem", "other-ca.pem");
        let none = String::new;
        let refused = "correct the user or the password";
        let mut table = vec![
            (
                "SASL_SSL",
                self.tls(),
                self.sasl("PLAIN", wrong),
                "denied",
                refused,
            ),
            (
                "SASL_PLAINTEXT",
                none(),
                self.sasl("PLAIN", wrong),
                "denied",
                refused,
            ),
            (
                "SSL",
                other_ca.clone(),
                none(),
                "certificate",
                "comes from no authority of `tls.ca_file`",
            ),
            (
                "SASL_SSL",
                none(),
                self.sasl("PLAIN", USERS[2].1),
                "certificate",
                "name the authority as `tls.ca_file`",
            ),
            (
                "SASL_SSL",
                other_ca,
                self.sasl("PLAIN", USERS[2].1),
                "certificate",
                "comes from no authority of `tls.ca_file`",
            ),
        ];
        if self.old {
            let sasl = self.sasl("SCRAM-SHA-256", USERS[2].1);
            table.push((
                "SASL_SSL",
                self.tls(),
                sasl,
                "config",
                "offers no login by SCRAM-SHA-256, but by PLAIN",
            ));
        } else {
            let wrong = |mechanism| self.sasl(mechanism, wrong);
            table.extend([
                (
                    "SASL_SSL",
                    self.tls(),
                    wrong("SCRAM-SHA-256"),
                    "denied",
                    refused,
                ),
                (
                    "SASL_SSL",
                    self.tls(),
                    wrong("SCRAM-SHA-512"),
                    "denied",
                    refused,
                ),
                ("EXPIRED", self.tls(), none(), "certificate", "expired at"),
                (
                    "WRONGNAME",
                    self.tls(),
                    none(),
                    "certificate",
                    "name one of its names as `tls.server_name`",
                ),
                (
                    "UNKNOWNCA",
                    self.tls(),
                    none(),
                    "certificate",
                    "comes from no authority of `tls.ca_file`",
                ),
                (
                    "MTLS",
                    self.tls(),
                    none(),
                    "needs_credentials",
                    "name one as `tls.cert_file` and `tls.key_file`",
                ),
            ]);
        }
        for (listener, tls, sasl, reason, shown) in table {
            let what = format!("{listener} {tls}{sasl}");
            step(&format!("{shown}: {}", what.replace('\n', " ")), || {
                let run = self.run(&Settings {
                    listener,
                    tls,
                    sasl,
                    bundles: listener == "SASL_PLAINTEXT",
                });
                run.explains(&what, reason, shown);
                run.shows_no_secret(self, &[wrong]);
            });
        }
    }

    /// The files of the broker name one listener's port for another: TLS is spoken to one without, and the reverse.
    pub fn other_ports_than_the_files_say_are_explained(&self) {
        let properties = self
            .cluster
            .broker(1)
            .unwrap()
            .folder()
            .join("server.properties");
        let path = self.cluster.cell().host_path(&properties);
        let before = fs::read_to_string(&path).unwrap();
        let ports = self.cluster.broker(1).unwrap().ports().to_vec();
        let (ssl, plain) = (format!(":{}", ports[1]), format!(":{}", ports[2]));
        let swapped = before
            .replace(&ssl, ":PORT")
            .replace(&plain, &ssl)
            .replace(":PORT", &plain);
        fs::write(&path, swapped).unwrap();
        let table = [
            (
                "SSL",
                self.tls(),
                String::new(),
                "the listener is a PLAINTEXT or SASL_PLAINTEXT one",
            ),
            (
                "SASL_PLAINTEXT",
                String::new(),
                self.sasl("PLAIN", USERS[2].1),
                "speaks TLS",
            ),
        ];
        for (listener, tls, sasl, shown) in table {
            step(shown, || {
                let run = self.run(&Settings {
                    listener,
                    tls,
                    sasl,
                    bundles: false,
                });
                run.has_logged(shown);
                run.reads_the_process();
                run.shows_no_secret(self, &[]);
            });
        }
        fs::write(&path, before).unwrap();
    }
}

impl Run {
    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    fn reads(&self, secured: &Secured, what: &str) {
        wait_until_none(what, TIME, || {
            let metrics = self.exporter.metrics();
            let wrong = |(series, wanted): (&String, &u64)| {
                let read = metrics.get(series);
                (read != Some(*wanted as f64)).then(|| format!("{series}: {read:?}, not {wanted}"))
            };
            let mut differ: Vec<_> = secured.expected.iter().filter_map(wrong).collect();
            for (broker, peer) in [(1, 2), (2, 1)] {
                let peer = format!(
                    "peer_probe_success{{broker=\"{broker}\",peer=\"{peer}\",stage=\"api\"}}"
                );
                if metrics.get(&peer) != Some(1.0) {
                    differ.push(format!("{peer} in {}", self.log()));
                }
                if metrics.success(broker, "cluster") != Some(true) {
                    differ.push(format!("cluster of broker {broker} in {}", self.log()));
                }
            }
            differ
        });
    }

    fn explains(&self, what: &str, reason: &str, shown: &str) {
        self.has_logged(shown);
        let log = self.log();
        let said: Vec<_> = log.lines().filter(|line| line.contains(shown)).collect();
        // One message for each broker: of the collector.
        let of_one = said
            .iter()
            .filter(|line| line.contains("127.0.0.1"))
            .count();
        assert!(of_one <= 2, "{what}: {said:#?}");
        let reason = format!("reason={reason}");
        let with_reason = said
            .iter()
            .any(|line| line.contains(&reason) || line.contains(&reason.replace('=', "=\"")));
        assert!(with_reason, "{what}: {said:#?}");
        // It is evaluated a moment after the log.
        wait_for(&format!("{shown} on the page: {what}"), TIME, || {
            self.exporter.page().contains(shown)
        });
        self.reads_the_process();
        let metrics = self.exporter.metrics();
        let active = metrics.active_findings();
        for finding in ["api_unresponsive", "listener_unresponsive"] {
            assert!(!active.contains(finding), "{what}: {finding}");
        }
        for id in [1, 2] {
            assert_eq!(metrics.of("leader_partitions", id), None, "{what}");
        }
    }

    #[track_caller]
    fn has_logged(&self, text: &str) {
        let lacks = || {
            let log = self.log();
            (!log.contains(text)).then_some(log).into_iter().collect()
        };
        wait_until_none(&format!("{text} in the log"), TIME, lacks);
    }

    fn reads_the_process(&self) {
        wait_for("the process to be read", TIME, || {
            let metrics = self.exporter.metrics();
            [1, 2]
                .iter()
                .all(|id| metrics.success(*id, "process") == Some(true))
        });
    }

    /// Searches all output for passwords, in any form that a protocol gives them, and for lines of private keys.
    fn shows_no_secret(&self, secured: &Secured, passwords: &[&str]) {
        let engine = base64::engine::general_purpose::STANDARD;
        let mut secrets: Vec<String> = Vec::new();
        let users = USERS.iter().map(|(_, password)| *password);
        for password in users
            .chain(passwords.iter().copied())
            .chain([STORE_PASSWORD])
        {
            secrets.push(password.into());
            secrets.push(engine.encode(password));
            let of_plain =
                |(user, _): &(&str, &str)| engine.encode(format!("\0{user}\0{password}"));
            secrets.extend(USERS.iter().map(of_plain));
        }
        let mut keys = 0;
        let folder = secured.cluster.tls_folder();
        for file in fs::read_dir(secured.cluster.cell().host_path(&folder)).unwrap() {
            let bytes = fs::read(file.unwrap().path()).unwrap();
            let text = String::from_utf8_lossy(&bytes);
            for key in text.split("-----BEGIN PRIVATE KEY-----").skip(1) {
                keys += 1;
                let lines = key
                    .lines()
                    .skip(1)
                    .take_while(|line| !line.starts_with('-'));
                secrets.extend(lines.map(str::to_owned));
            }
        }
        assert!(keys > 1, "the brokers' keys and that of the client");
        let mut outputs = vec![
            ("log".to_owned(), self.log().into_bytes()),
            ("record".to_owned(), fs::read(&self.record).unwrap()),
        ];
        for path in [
            "/",
            "/metrics",
            "/check",
            "/api/v1/brokers",
            "/api/v1/findings",
        ] {
            outputs.push((path.to_owned(), self.exporter.get(path).1.into_bytes()));
        }
        if self.saves_bundles {
            outputs.extend(self.bundles(secured));
        }
        for (name, bytes) in outputs {
            assert!(!bytes.is_empty(), "{name} is empty");
            for secret in &secrets {
                let found = memchr::memmem::find(&bytes, secret.as_bytes());
                assert_eq!(found, None, "{name} has a secret: {secret}");
            }
        }
    }

    /// Every file of a bundle of each broker.
    fn bundles(&self, secured: &Secured) -> Vec<(String, Vec<u8>)> {
        let folder = secured.work.path().join(format!(
            "bundles-{}",
            fs::read_dir(secured.work.path()).unwrap().count()
        ));
        let mut command = Command::new(env!("CARGO_BIN_EXE_kafka-vitals"));
        command.arg("bundle").arg("--output").arg(&folder);
        command.arg("--config.file").arg(&self.config);
        let output = secured.cluster.cell().run_tool(command, TIME).unwrap();
        assert!(output.status.success(), "{output:?}");
        let mut files = Vec::new();
        collect(&folder, &mut files);
        assert!(
            files
                .iter()
                .any(|(name, _)| name.contains("server.properties")),
            "{files:?}"
        );
        files.push((
            "bundle's output".into(),
            [output.stdout, output.stderr].concat(),
        ));
        files.retain(|(_, bytes)| !bytes.is_empty());
        files
    }
}

fn collect(folder: &Path, into: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, into);
        } else {
            into.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
}
