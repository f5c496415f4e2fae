//! An exporter of a host without brokers, asked by curl.

use std::path::Path;
use std::process::Command;

use crate::host::Host;
use crate::running;

pub struct Exporter {
    running: running::Exporter,
    pub port: u16,
    _host: Host,
}

impl Exporter {
    pub fn start(web_config: &Path) -> Exporter {
        let host = Host::without_brokers();
        let mut command = host.exporter();
        command
            .arg("--web.config.file")
            .arg(web_config)
            .env("XDG_STATE_HOME", host.folder.path());
        let running = running::Exporter::start(command);
        Exporter {
            port: running.address.port(),
            running,
            _host: host,
        }
    }

    pub fn logged(&self, text: &str) -> Vec<String> {
        self.running.logged(text)
    }

    /// What curl prints of `/-/healthy` with these arguments: the status and the version of HTTP, or curl's error.
    pub fn curl(&self, arguments: &[&str]) -> String {
        let output = self.curl_output(arguments, "/-/healthy", "%{http_code} HTTP/%{http_version}");
        let mut lines = output.lines().filter(|line| !line.is_empty());
        let line = if output.starts_with("curl: ") {
            lines.next()
        } else {
            lines.next_back()
        };
        line.unwrap_or_default().to_owned()
    }

    pub fn curl_output(&self, arguments: &[&str], path: &str, write: &str) -> String {
        let url = if arguments.contains(&"--http") {
            format!("http://localhost:{}{path}", self.port)
        } else {
            format!("https://localhost:{}{path}", self.port)
        };
        let arguments = arguments.iter().filter(|argument| **argument != "--http");
        let output = Command::new("curl")
            .args(["--silent", "--show-error", "--ipv4", "--max-time", "30"])
            .args(["--write-out", &format!("\n{write}")])
            .args(arguments)
            .arg(url)
            .output()
            .unwrap();
        if output.status.success() {
            String::from_utf8_lossy(&output.stdout).into_owned()
        } else {
            String::from_utf8_lossy(&output.stderr).trim().to_owned()
        }
    }
}
