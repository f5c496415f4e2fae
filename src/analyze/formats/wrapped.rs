//! What container runtimes, journald, svlogd, terminals and web pages put around each line of a text, and the text
//! without it.
//!
//! The first lines of a file decide what wraps its lines. A line that is not wrapped so stays as it is. Where nothing is
//! wrapped, nothing is copied.

use std::borrow::Cow;
use std::sync::LazyLock;

use super::Pattern;
use crate::parse::docker;

/// Lines that decide.
const SAMPLE: usize = 200;
/// Wrappers around each other: `kafka-1  | ` before the time that Docker adds, before what journald printed.
const DEEPEST: usize = 4;
/// Containers whose lines are kept apart. Lines of further ones stay with those before them.
const MOST_CONTAINERS: usize = 64;

/// The lines of a file that one container wrote, or all of them.
#[derive(Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// The container, pod or host that each line names.
    pub container: Option<String>,
    pub text: Cow<'a, str>,
}

impl Part<'_> {
    pub fn into_owned(self) -> Part<'static> {
        Part {
            container: self.container,
            text: Cow::Owned(self.text.into_owned()),
        }
    }
}

/// A line without what wraps it.
#[derive(Debug, PartialEq, Eq)]
pub struct Line<'a> {
    pub container: Option<&'a str>,
    pub text: &'a str,
    /// False where the runtime cut a long line: the next one continues it.
    pub is_whole: bool,
}

/// What wraps the lines of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wrapping {
    docker_json: bool,
    colours: bool,
    copied_colours: bool,
    markup: bool,
    /// From the outside to the inside.
    layers: Vec<Layer>,
    /// Blanks with which every line begins.
    indent: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layer {
    /// `kafka-1  | `
    Compose,
    /// `[pod/kafka-0/kafka] `
    Pod,
    /// `2024-01-02T03:04:05.678901234Z stdout F `
    Cri,
    /// `2024-01-02T03:04:05.678901234Z `, of `kubectl logs --timestamps` and `docker logs -t`.
    Timestamp,
    /// `Jan 02 03:04:05 host kafka[7]: `
    Journal,
    /// `2024-01-02_03:04:05.67890 `, or the label of TAI64N that `svlogd` and `multilog` write.
    Svlogd,
    /// `> `, of a mail.
    Quote,
}

const LAYERS: [Layer; 7] = [
    Layer::Compose,
    Layer::Pod,
    Layer::Cri,
    Layer::Timestamp,
    Layer::Journal,
    Layer::Svlogd,
    Layer::Quote,
];

/// The group is the container's name, with [`Layer::Cri`] whether the line is whole.
static COMPOSE: LazyLock<Pattern> =
    LazyLock::new(|| Pattern::new(r"^ ( [A-Za-z0-9][\w.-]* ) \s* \| (?: \  | $ )"));
static POD: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(r"^ \[ (?: pod/ )? ( [a-z0-9][a-z0-9.-]* ) / [^\s\]/]+ \] (?: \  | $ )")
});
static CRI: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(
        r"^ \d{4}-\d\d-\d\dT[\d:.]+ (?: Z | [+-]\d\d:\d\d ) \  std(?: out | err ) \  ([FP]) (?: \  | $ )",
    )
});
static TIMESTAMP: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(r"^ \d{4}-\d\d-\d\dT[\d:]+ (?: \.\d+ )? (?: Z | [+-]\d\d:\d\d ) (?: \  | $ )")
});
/// No logger of Java prints so many digits.
static NANOSECONDS: LazyLock<Pattern> =
    LazyLock::new(|| Pattern::new(r"^ \d{4}-\d\d-\d\dT[\d:]+ \.\d{7,9} (?: Z | [+-]\d\d:\d\d )"));
static JOURNAL: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(
        r"^ (?: [A-Z][a-z][a-z] \  [\ \d]\d \  \d\d:\d\d:\d\d (?: \.\d+ )?
              | \d{4}-\d\d-\d\dT[\d:.]+ (?: Z | [+-]\d\d:?\d\d ) )
          \  (\S+) \  [^\s:\[\]]+ \[\d+\] : (?: \  | $ )",
    )
});
static SVLOGD: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(r"^ (?: \d{4}-\d\d-\d\d_\d\d:\d\d:\d\d\.\d+ | @[0-9a-f]{24} ) (?: \  | $ )")
});
static QUOTE: LazyLock<Pattern> = LazyLock::new(|| Pattern::new(r"^ > (?: \  | $ )"));

/// With the character that a terminal takes, or in the notation `^[`.
static COLOUR: LazyLock<Pattern> =
    LazyLock::new(|| Pattern::new(r"(?: \x1b | \^\[ ) \[ [0-9;?]* [A-Za-z]"));
/// What remains of it where a terminal's text was copied.
static COPIED_COLOUR: LazyLock<Pattern> =
    LazyLock::new(|| Pattern::new(r"\[ (?: [01] | (?: [01]; )? (?: 3|4|9|10 ) \d )? m"));
static BREAK: LazyLock<Pattern> =
    LazyLock::new(|| Pattern::new(r"(?i) <br \s* /? > | </ (?: p | div ) >"));
/// Bounded inside: else each match on a long line is searched to its end for the end of one that is never closed.
static TAG: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(
        r"(?i) </? (?: pre | code | span | div | p ) (?: \s [^>]{0,300} )? > | \{ (?: noformat | code ) [^}]{0,300} \} | ^ ``` \w* $",
    )
});
static MARKUP: LazyLock<Pattern> = LazyLock::new(|| {
    Pattern::new(
        r"(?i) < (?: pre | code | br ) \b | \{ (?: noformat | code ) \b | ^ ``` | & (?: lt | gt | quot | \#\d+ ) ;",
    )
});

const ENTITIES: [(&str, &str); 7] = [
    ("&lt;", "<"),
    ("&gt;", ">"),
    ("&quot;", "\""),
    ("&#34;", "\""),
    ("&#39;", "'"),
    ("&nbsp;", " "),
    // The last one: `&amp;lt;` is the text `&lt;`.
    ("&amp;", "&"),
];

impl Layer {
    fn pattern(self) -> &'static Pattern {
        match self {
            Layer::Compose => &COMPOSE,
            Layer::Pod => &POD,
            Layer::Cri => &CRI,
            Layer::Timestamp => &TIMESTAMP,
            Layer::Journal => &JOURNAL,
            Layer::Svlogd => &SVLOGD,
            Layer::Quote => &QUOTE,
        }
    }

    fn may_be_around(self, line: &str) -> bool {
        match self {
            Layer::Timestamp => NANOSECONDS.is_match(line),
            _ => self.pattern().is_match(line),
        }
    }
}

impl Wrapping {
    /// Decides by the first lines of `text`.
    pub fn of(text: &str) -> Wrapping {
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        let lines: Vec<&str> = lines.take(SAMPLE).collect();
        let is_most = |number: usize, of: usize| number * 2 > of;
        let docker_json = lines.iter().filter(|line| line.starts_with(r#"{"log":"#));
        let mut wrapping = Wrapping {
            docker_json: is_most(docker_json.count(), lines.len()),
            ..Wrapping::default()
        };
        let mut sample: Vec<Cow<'_, str>> =
            lines.iter().map(|line| wrapping.entry(line).0).collect();
        wrapping.colours = sample.iter().any(|line| COLOUR.is_match(line));
        wrapping.copied_colours =
            !wrapping.colours && sample.iter().any(|line| line.contains("[0m"));
        wrapping.markup = sample.iter().any(|line| MARKUP.is_match(line));
        for line in &mut sample {
            *line = wrapping.clean(std::mem::take(line));
        }
        let mut sample: Vec<&str> = sample.iter().map(AsRef::as_ref).collect();
        for _ in 0..DEEPEST {
            let around = |layer: Layer| {
                sample
                    .iter()
                    .filter(move |line| layer.may_be_around(line))
                    .count()
            };
            let found = LAYERS
                .into_iter()
                .find(|layer| is_most(around(*layer), sample.len()));
            let Some(layer) = found else { break };
            wrapping.layers.push(layer);
            let inside = sample
                .iter()
                .filter_map(|line| Some(layer.pattern().after(line)?.1));
            sample = inside.filter(|line| !line.trim().is_empty()).collect();
        }
        let indents = sample.iter().filter(|line| !line.trim().is_empty());
        wrapping.indent = indents.map(|line| indent_of(line)).min().unwrap_or(0);
        wrapping
    }

    pub fn is_none(&self) -> bool {
        *self == Wrapping::default()
    }

    /// Strips what wraps a line. `scratch` takes the text where it has to be copied.
    pub fn strip<'a>(&self, line: &'a str, scratch: &'a mut String) -> Line<'a> {
        let (entry, mut is_whole) = self.entry(line);
        let mut text: &'a str = match self.clean(entry) {
            Cow::Borrowed(text) => text,
            Cow::Owned(text) => {
                *scratch = text;
                scratch.as_str()
            }
        };
        text = text.trim_end_matches(['\n', '\r']);
        let mut container = None;
        for layer in &self.layers {
            let Some((word, inside)) = layer.pattern().after(text) else {
                break;
            };
            match layer {
                Layer::Compose | Layer::Pod | Layer::Journal => {
                    container = container.or(Some(word))
                }
                Layer::Cri => is_whole &= word == "F",
                Layer::Timestamp | Layer::Svlogd | Layer::Quote => {}
            }
            text = inside;
        }
        let indent = indent_of(text).min(self.indent);
        Line {
            container,
            text: text.get(indent..).unwrap_or(text),
            is_whole,
        }
    }

    /// The text in a line of Docker's JSON, and whether it is a whole line.
    fn entry<'a>(&self, line: &'a str) -> (Cow<'a, str>, bool) {
        if self.docker_json
            && let Some(written) = docker::written(line)
        {
            let is_whole = written.ends_with('\n');
            return (written, is_whole);
        }
        (Cow::Borrowed(line), true)
    }

    /// A line without colours and without the marks of a web page.
    fn clean<'a>(&self, mut line: Cow<'a, str>) -> Cow<'a, str> {
        if self.colours {
            line = replaced(line, &COLOUR, "");
        }
        if self.copied_colours {
            line = replaced(line, &COPIED_COLOUR, "");
        }
        if self.markup {
            line = replaced(replaced(line, &BREAK, "\n"), &TAG, "");
            if line.contains('&') {
                let plain = |line: String, (entity, character): (&str, &str)| {
                    line.replace(entity, character)
                };
                line = Cow::Owned(ENTITIES.into_iter().fold(line.into_owned(), plain));
            }
        }
        line
    }
}

fn indent_of(line: &str) -> usize {
    line.len() - line.trim_start_matches([' ', '\t']).len()
}

fn replaced<'a>(line: Cow<'a, str>, pattern: &Pattern, by: &str) -> Cow<'a, str> {
    if pattern.is_match(&line) {
        Cow::Owned(pattern.replaced(&line, by))
    } else {
        line
    }
}

/// The text without what wraps its lines, apart for each container that they name.
pub fn unwrap(text: &str) -> Vec<Part<'_>> {
    let wrapping = Wrapping::of(text);
    if wrapping.is_none() {
        return vec![Part {
            container: None,
            text: Cow::Borrowed(text),
        }];
    }
    let mut parts: Vec<(Option<String>, String)> = Vec::new();
    let mut place = 0;
    let mut scratch = String::new();
    for line in text.lines() {
        let line = wrapping.strip(line, &mut scratch);
        // A line that names no container continues the one before it.
        let is_of =
            |(container, _): &(Option<String>, String)| container.as_deref() == line.container;
        if !parts
            .get(place)
            .is_some_and(|part| line.container.is_none() || is_of(part))
        {
            match parts.iter().position(is_of) {
                Some(known) => place = known,
                None if parts.len() < MOST_CONTAINERS => {
                    place = parts.len();
                    parts.push((line.container.map(str::to_owned), String::new()));
                }
                None => {}
            }
        }
        if let Some((_, part)) = parts.get_mut(place) {
            part.push_str(line.text);
            if line.is_whole {
                part.push('\n');
            }
        }
    }
    let part = |(container, text)| Part {
        container,
        text: Cow::Owned(text),
    };
    parts.into_iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PLAIN: &str = "[2024-01-02 03:04:05,678] INFO a | b (kafka.server.KafkaServer)\n\
                         java.io.IOException: x\n\
                         \tat a.B.c(D.java:7)\n\
                         \n\
                         [2024-01-02 03:04:06,678] INFO [KafkaServer id=1] started (kafka.server.KafkaServer)\n";

    fn wrapped(line: impl Fn(&str) -> String) -> String {
        PLAIN.lines().map(|text| line(text) + "\n").collect()
    }

    fn one(text: &str) -> (Option<String>, String) {
        let [part] = unwrap(text).try_into().unwrap();
        (part.container, part.text.into_owned())
    }

    #[test]
    fn what_is_not_wrapped_is_not_copied() {
        let texts = [
            PLAIN,
            "",
            "tcp   0   0 a:1 b:2 LISTEN\n",
            "2024-01-02T03:04:05.678Z INFO a\n2024-01-02T03:04:05.678Z INFO b\n",
            "\"main\" #1 prio=5\n\tat a.B.c(D.java:7)\n- locked <0x1> (a.B)\n",
        ];
        for text in texts {
            let [part] = unwrap(text).try_into().unwrap();
            assert!(
                matches!(part.text, Cow::Borrowed(same) if same == text)
                    && part.container.is_none(),
                "{text}"
            );
        }
    }

    #[test]
    fn every_wrapper_is_stripped() {
        let json = |text: &str| serde_json::to_string(&format!("{text}\n")).unwrap();
        let table = [
            (
                wrapped(|text| format!("kafka-1  | {text}")),
                Some("kafka-1"),
            ),
            (
                wrapped(|text| format!("kafka_1_1  | {text}")),
                Some("kafka_1_1"),
            ),
            (
                wrapped(|text| format!("\x1b[36mkafka-1  |\x1b[0m {text}")),
                Some("kafka-1"),
            ),
            (
                wrapped(|text| format!("[36mkafka-1  |[0m {text}")),
                Some("kafka-1"),
            ),
            (
                wrapped(|text| format!("[pod/kafka-0/kafka] {text}")),
                Some("kafka-0"),
            ),
            (
                wrapped(|text| {
                    format!("[pod/kafka-0/kafka] 2024-01-02T03:04:05.678901234Z {text}")
                }),
                Some("kafka-0"),
            ),
            (
                wrapped(|text| format!("kafka-1  | 2024-01-02T03:04:05.6789012Z {text}")),
                Some("kafka-1"),
            ),
            (
                wrapped(|text| format!("2024-01-02T03:04:05.678901234Z {text}")),
                None,
            ),
            (
                wrapped(|text| format!("2024-01-02T03:04:05.678901234+01:00 {text}")),
                None,
            ),
            (
                wrapped(|text| format!("2024-01-02T03:04:05.678901234Z stdout F {text}")),
                None,
            ),
            (
                wrapped(|text| {
                    format!(
                        r#"{{"log":{},"stream":"stdout","time":"2024-01-02T03:04:05.6Z"}}"#,
                        json(text)
                    )
                }),
                None,
            ),
            (
                wrapped(|text| format!("Jan  2 03:04:05 host kafka-server-start.sh[77]: {text}")),
                Some("host"),
            ),
            (
                wrapped(|text| format!("2024-01-02T03:04:05+0100 host kafka[77]: {text}")),
                Some("host"),
            ),
            (
                wrapped(|text| format!("2024-01-02_03:04:05.67890 {text}")),
                None,
            ),
            (
                wrapped(|text| format!("@40000000658f3b8a1b2c3d4e {text}")),
                None,
            ),
            (wrapped(|text| format!("> {text}")), None),
            (wrapped(|text| format!("    {text}")), None),
        ];
        for (text, container) in table {
            let (found, plain) = one(&text);
            assert_eq!(
                (found.as_deref(), plain.as_str()),
                (container, PLAIN),
                "{text}"
            );
        }
    }

    #[test]
    fn pages_and_coloured_levels() {
        let html = "<pre class=\"x\">\"a\" #1 prio=5\n  - locked &lt;0x1&gt; (a.B$1)<br/>x -&gt; y &amp;lt;</pre>\n";
        assert_eq!(
            one(html).1,
            "\"a\" #1 prio=5\n  - locked <0x1> (a.B$1)\nx -> y &lt;\n"
        );
        assert_eq!(
            one("[2024-01-02 03:04:05,678] \u{1b}[32mINFO\u{1b}[0;39m a [30m]\n").1,
            "[2024-01-02 03:04:05,678] INFO a [30m]\n"
        );
        assert_eq!(one("{noformat}\ntcp 0 0\n{noformat}\n").1, "\ntcp 0 0\n\n");
    }

    /// A tag that is never closed does not make each other tag search the whole line.
    #[test]
    fn a_long_line_of_open_tags_is_fast() {
        let started = std::time::Instant::now();
        for line in ["{code<pre>", "<span {code}"] {
            let _ = unwrap(&line.repeat(20_000));
        }
        assert!(started.elapsed() < std::time::Duration::from_secs(60));
    }

    #[test]
    fn what_a_runtime_cut_is_joined() {
        let cri = "2024-01-02T03:04:05.678901234Z stdout P [2024-01-02 03:04:05,678] IN\n\
                   2024-01-02T03:04:05.678901235Z stdout F FO a\n";
        assert_eq!(one(cri).1, "[2024-01-02 03:04:05,678] INFO a\n");
        let json = "{\"log\":\"[2024] IN\",\"stream\":\"stdout\"}\n{\"log\":\"FO a\\n\",\"stream\":\"stdout\"}\n";
        assert_eq!(one(json).1, "[2024] INFO a\n");
    }

    /// A line without a name continues the one before it; an old line of another kind stays as it is.
    #[test]
    fn containers_are_kept_apart() {
        let text = "Attaching to kafka1, kafka2\nkafka1  | a\nkafka2  | b\nkafka1  | c\n\tat x\nkafka2  | d\n";
        let parts = unwrap(text);
        let parts: Vec<_> = parts
            .iter()
            .map(|part| (part.container.as_deref(), &*part.text))
            .collect();
        assert_eq!(
            parts,
            [
                (None, "Attaching to kafka1, kafka2\n"),
                (Some("kafka1"), "a\nc\n\tat x\n"),
                (Some("kafka2"), "b\nd\n"),
            ]
        );
        let many: String = (0..1000).map(|n| format!("c{n} | x{n}\n")).collect();
        let parts = unwrap(&many);
        assert_eq!(parts.len(), MOST_CONTAINERS);
        let lines = parts.iter().flat_map(|part| part.text.lines());
        assert_eq!(lines.count(), 1000);
    }
}
