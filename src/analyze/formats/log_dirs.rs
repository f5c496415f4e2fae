//! The directories of brokers as `kafka-log-dirs --describe` prints them: JSON after two lines of text.

use serde::Deserialize;

#[derive(Debug, Deserialize)]
pub struct LogDirs {
    pub brokers: Vec<BrokerDirs>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BrokerDirs {
    pub broker: i32,
    pub log_dirs: Vec<LogDir>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogDir {
    #[serde(default)]
    pub log_dir: String,
    /// Null where the directory is well; else the class or the name of an error.
    pub error: Option<String>,
    #[serde(default)]
    pub partitions: Vec<Replica>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replica {
    #[serde(default)]
    pub size: u64,
    /// Records that it lacks: up to the high watermark, as a future replica up to the end of the current one.
    #[serde(default)]
    pub offset_lag: i64,
    /// It takes the place of the current one when it has everything.
    #[serde(default)]
    pub is_future: bool,
    /// `t-0`
    #[serde(default)]
    pub partition: String,
}

/// None where the text has no such JSON.
pub fn read(text: &str) -> Option<LogDirs> {
    let place = text.find("\"logDirs\"")?;
    // The outermost brace is the first on its line.
    let before = text.get(..place)?;
    let starts = before.match_indices('{').map(|(start, _)| start);
    let of_line = starts.filter(|start| {
        let line = before.get(..*start).unwrap_or_default();
        line.is_empty() || line.ends_with('\n')
    });
    // Two in vain, and it is another text.
    of_line.take(2).find_map(|start| {
        let mut values = serde_json::Deserializer::from_str(text.get(start..)?).into_iter();
        values.next()?.ok()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn as_the_tool_and_as_jq_prints_it() {
        let json = "{\"version\":1,\"brokers\":[{\"broker\":1,\"logDirs\":[{\"logDir\":\"/a\",\"error\":null,\"partitions\":[{\"partition\":\"t-0\",\"size\":7,\"offsetLag\":3,\"isFuture\":false}]},{\"logDir\":\"/b\",\"error\":\"org.apache.kafka.common.errors.KafkaStorageException\",\"partitions\":[]}]}]}";
        let tool = format!(
            "Querying brokers for log directories information\nReceived log directory information from brokers 1\n{json}\n"
        );
        let pretty: serde_json::Value = serde_json::from_str(json).unwrap();
        let jq = serde_json::to_string_pretty(&pretty).unwrap();
        for text in [tool, jq + "\n$ exit\n"] {
            let found = read(&text).unwrap();
            let [
                BrokerDirs {
                    broker: 1,
                    log_dirs,
                },
            ] = found.brokers.as_slice()
            else {
                panic!("{text}")
            };
            let dirs: Vec<_> = log_dirs
                .iter()
                .map(|dir| (&*dir.log_dir, dir.error.is_some(), dir.partitions.len()))
                .collect();
            assert_eq!(dirs, [("/a", false, 1), ("/b", true, 0)]);
            assert_eq!(log_dirs[0].partitions[0].offset_lag, 3);
        }
        assert!(read("\"logDirs\"").is_none() && read("{\n\"logDirs\": 3").is_none());
    }
}
