//! Which files a broker's log4j settings name: of a broker that has no log open they say whether that is meant so.

use std::path::{Path, PathBuf};

use crate::discover::properties::{Properties, list};
use crate::sys::plain::FileError;
use crate::sys::proc::ProcRoot;
use crate::sys::rooted::Rooted;

/// Those that Kafka delivers have 4 KiB.
const MOST_OF_FILE: usize = 256 << 10;
/// As Linux has it.
const LONGEST_PATH: usize = 4096;
/// Where log4j finds its settings: version 1, and both ways to write it for version 2.
const OPTIONS: [&str; 3] = [
    "-Dlog4j.configuration=",
    "-Dlog4j2.configurationFile=",
    "-Dlog4j.configurationFile=",
];

/// What log4j's settings say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Settings {
    /// Where they are, as the broker sees it.
    pub path: PathBuf,
    /// The first file that they name, with what the command line sets in place of `${...}`.
    pub file: Option<String>,
}

/// Reads the settings of a broker with its own rights. None where its command line names none.
pub(super) fn read(proc: &ProcRoot, pid: u32) -> Option<Result<Settings, FileError>> {
    let arguments = proc.command_line(pid).ok()?.arguments;
    let path = path_in(&arguments)?;
    let folder = proc.link(pid, "cwd").unwrap_or_default();
    let path = folder.join(path);
    let content = Rooted::of_process(proc, pid).and_then(|root| root.read(&path, MOST_OF_FILE));
    Some(content.map(|content| {
        let text = String::from_utf8_lossy(&content.bytes);
        let file = files(&text).into_iter().next();
        Settings {
            file: file.map(|file| substituted(&file, &arguments)),
            path,
        }
    }))
}

/// The last option counts, as for Java.
fn path_in(arguments: &[String]) -> Option<&Path> {
    let value = arguments.iter().rev().find_map(|argument| {
        let mut options = OPTIONS.iter();
        options.find_map(|option| argument.strip_prefix(option))
    })?;
    // Of several the first one decides where the log goes, mostly.
    let first = list(value).next()?;
    let path = match first.strip_prefix("file:") {
        Some(path) => path.strip_prefix("//").unwrap_or(path),
        // `classpath:`, `https:` or the like.
        None if first.contains(':') => return None,
        None => first,
    };
    Some(Path::new(path))
}

/// The files of the appenders: of version 1 those that a logger uses, of version 2 all, which opens them all.
fn files(text: &str) -> Vec<String> {
    let settings = Properties::parse(text.as_bytes()).unwrap_or_default();
    let used = |appender: &str| {
        let loggers = settings.iter().filter(|(key, _)| {
            let of = ["log4j.rootLogger", "log4j.rootCategory"].contains(key);
            of || key.starts_with("log4j.logger.") || key.starts_with("log4j.category.")
        });
        loggers
            .flat_map(|(_, value)| list(value).skip(1))
            .any(|name| name == appender)
    };
    let of_first = settings.iter().filter_map(|(key, value)| {
        let (appender, option) = key.strip_prefix("log4j.appender.")?.rsplit_once('.')?;
        let is_file = option.eq_ignore_ascii_case("file") && used(appender);
        is_file.then(|| value.trim().to_owned())
    });
    let mut files: Vec<String> = of_first.collect();
    let text = without_comments(text);
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with(['#', '!']));
    for line in lines {
        files.extend(line.split("fileName").skip(1).filter_map(value_of));
    }
    files
}

/// The value after a key: `: "a"` of YAML and JSON, `="a"` of XML, `= a` of properties.
fn value_of(after: &str) -> Option<String> {
    let after = after.trim_start_matches(['"', '\'', ' ', '\t']);
    let value = after.strip_prefix([':', '='])?.trim();
    let value = match value.strip_prefix(['"', '\'']) {
        Some(quoted) => quoted.split(['"', '\'']).next()?,
        None => value,
    };
    (!value.is_empty()).then(|| value.to_owned())
}

/// Without those of XML.
fn without_comments(text: &str) -> String {
    let mut parts = text.split("<!--");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        text + part.split_once("-->").map_or("", |(_, rest)| rest)
    })
}

/// With the values of the command line in place of `${kafka.logs.dir}` and `${sys:kafka.logs.dir}`.
fn substituted(file: &str, arguments: &[String]) -> String {
    let mut parts = file.split("${");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        // A path is shorter, and values may be long and named often.
        if text.len() > LONGEST_PATH {
            return text;
        }
        let Some((name, rest)) = part.split_once('}') else {
            return text + "${" + part;
        };
        let plain = name.strip_prefix("sys:").unwrap_or(name);
        let option = format!("-D{plain}=");
        let mut values = arguments.iter().rev();
        match values.find_map(|argument| argument.strip_prefix(&option)) {
            Some(value) => text + value + rest,
            None => text + "${" + name + "}" + rest,
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn options(arguments: &[&str]) -> Vec<String> {
        arguments
            .iter()
            .map(|argument| (*argument).to_owned())
            .collect()
    }

    #[test]
    fn the_last_option_names_the_settings() {
        let path = |arguments: &[&str]| path_in(&options(arguments)).map(Path::to_path_buf);
        for (arguments, expected) in [
            (
                &["java", "-Dlog4j.configuration=file:/opt/log4j.properties"][..],
                "/opt/log4j.properties",
            ),
            (
                &[
                    "-Dlog4j.configuration=file:///a",
                    "-Dlog4j2.configurationFile=/b.yaml,/c.yaml",
                ],
                "/b.yaml",
            ),
            (
                &["-Dlog4j.configuration=file:bin/../config/log4j.properties"],
                "bin/../config/log4j.properties",
            ),
        ] {
            assert_eq!(path(arguments), Some(PathBuf::from(expected)));
        }
        assert_eq!(
            path(&["java", "-Dlog4j2.configurationFile=classpath:a.xml"]),
            None
        );
        assert_eq!(path(&["java", "kafka.Kafka"]), None);
    }

    /// Parts of what Kafka 3.9 and 4.0 deliver, and of what their images write for containers.
    #[test]
    fn files_of_all_forms_of_settings() {
        let first = "log4j.rootLogger=INFO, stdout, kafkaAppender\n\
            log4j.appender.stdout=org.apache.log4j.ConsoleAppender\n\
            log4j.appender.kafkaAppender=org.apache.log4j.DailyRollingFileAppender\n\
            log4j.appender.kafkaAppender.File=${kafka.logs.dir}/server.log\n\
            # log4j.appender.kafkaAppender.File=/old.log\n\
            log4j.appender.unused.File=/unused.log\n\
            log4j.logger.kafka.controller=TRACE, controllerAppender\n\
            log4j.appender.controllerAppender.file=/logs/controller.log\n";
        let found = ["/logs/controller.log", "${kafka.logs.dir}/server.log"];
        assert_eq!(files(first), found);
        let console = "log4j.rootLogger=INFO, stdout\nlog4j.appender.stdout=org.apache.log4j.ConsoleAppender\n";
        assert_eq!(files(console), [""; 0]);
        let yaml = "Configuration:\n  Appenders:\n    RollingFile:\n      - name: KafkaAppender\n        \
            fileName: \"${sys:kafka.logs.dir}/server.log\"\n        filePattern: \"x-%d\"\n      # fileName: b\n";
        assert_eq!(files(yaml), ["${sys:kafka.logs.dir}/server.log"]);
        let xml = "<Appenders><!-- <File name=\"o\" fileName=\"/old\"/> -->\n<File name=\"f\" fileName=\"/a.log\"/>\
            <Console name=\"c\"/><File fileName='/b.log'/></Appenders>";
        assert_eq!(files(xml), ["/a.log", "/b.log"]);
        let properties = "appender.file.type = RollingFile\nappender.file.fileName = /c.log\n";
        assert_eq!(files(properties), ["/c.log"]);
        assert_eq!(files("{\"File\": {\"fileName\": \"/d.log\"}}"), ["/d.log"]);
    }

    #[test]
    fn what_the_command_line_sets_is_put_in() {
        let arguments = options(&[
            "java",
            "-Dkafka.logs.dir=/old",
            "-Dkafka.logs.dir=/opt/logs",
        ]);
        let put = |file| substituted(file, &arguments);
        assert_eq!(put("${kafka.logs.dir}/server.log"), "/opt/logs/server.log");
        assert_eq!(
            put("${sys:kafka.logs.dir}/a.${env:HOST}.log"),
            "/opt/logs/a.${env:HOST}.log"
        );
        assert_eq!(put("/a/${open"), "/a/${open");
        let arguments = options(&[&format!("-Da={}", "x".repeat(10_000))]);
        let many = substituted(&"${a}".repeat(10_000), &arguments);
        assert_eq!(many.len(), 10_000);
    }
}
