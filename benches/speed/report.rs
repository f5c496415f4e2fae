//! The table of results.

use std::fs;
use std::process::Command;

use lab::jars;

/// One comparison. `ours`, `floor` and `beside` have the same unit.
pub struct Row {
    pub subject: String,
    pub unit: &'static str,
    pub ours: f64,
    pub floor: Option<Floor>,
    pub bar: Bar,
    /// Tools that people use for the same purpose.
    pub beside: Vec<(String, f64)>,
}

pub struct Floor {
    pub name: &'static str,
    pub value: f64,
    /// Median over the rounds of our cost divided by the floor's in the same round.
    pub ratio: f64,
}

pub enum Bar {
    /// At most this many times the floor.
    Ratio(f64),
    /// At most this value, in the row's unit.
    Most(f64),
    /// No bar: only for comparison.
    None,
}

impl Row {
    /// A figure of CPU time that is compared with no floor.
    pub fn milliseconds(subject: String, ours: f64, bar: Bar) -> Row {
        Row {
            subject,
            unit: "ms",
            ours,
            floor: None,
            bar,
            beside: Vec::new(),
        }
    }

    pub fn holds(&self) -> bool {
        match self.bar {
            Bar::Ratio(most) => self.floor.as_ref().is_some_and(|floor| floor.ratio <= most),
            Bar::Most(most) => self.ours <= most,
            Bar::None => true,
        }
    }

    fn cells(&self) -> [String; 7] {
        let value = |value: f64| format!("{} {}", short(value), self.unit);
        let bar = match self.bar {
            Bar::Ratio(most) if most < 0.1 => format!("1/{} of it", short(1.0 / most)),
            Bar::Ratio(most) => format!("{} x", short(most)),
            Bar::Most(most) => value(most),
            Bar::None => "".into(),
        };
        let verdict = match (&self.bar, self.holds()) {
            (Bar::None, _) => "",
            (_, true) => "held",
            (_, false) => "BROKEN",
        };
        let beside: Vec<String> = self
            .beside
            .iter()
            .map(|(name, cost)| format!("{name} {}", value(*cost)))
            .collect();
        let floor = self.floor.as_ref();
        [
            self.subject.clone(),
            value(self.ours),
            floor.map_or("".into(), |floor| {
                format!("{} {}", floor.name, value(floor.value))
            }),
            floor.map_or("".into(), |floor| short(floor.ratio)),
            bar,
            verdict.into(),
            beside.join("; "),
        ]
    }
}

/// Formats with three significant digits.
fn short(value: f64) -> String {
    let magnitude = if value == 0.0 {
        0
    } else {
        value.abs().log10().floor() as i32
    };
    format!(
        "{value:.*}",
        usize::try_from(2 - magnitude).unwrap_or(0).min(6)
    )
}

/// Prints a Markdown table, for `docs/performance.md`.
pub fn print(rows: &[Row], skipped: &[String]) {
    println!("\n{}\n", machine());
    let head = ["subject", "ours", "floor", "ratio", "bar", "", "beside"].map(String::from);
    let rule = ["---", "--:", "--:", "--:", "--:", "---", "---"].map(String::from);
    for cells in [head, rule].into_iter().chain(rows.iter().map(Row::cells)) {
        println!("| {} |", cells.join(" | "));
    }
    println!();
    for one in skipped {
        println!("SKIPPED: {one}");
    }
    for row in rows.iter().filter(|row| !row.holds()) {
        println!("BROKEN: {}", row.subject);
    }
}

/// Describes the machine of this run.
fn machine() -> String {
    let read = |path: &str| {
        fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map(|(_, name)| name);
    let processors = cpu
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let java = jars::java()
        .ok()
        .and_then(|java| Command::new(java).arg("-version").output().ok());
    let java = java
        .map(|output| String::from_utf8_lossy(&output.stderr).into_owned())
        .unwrap_or_default();
    format!(
        "{processors} x {}, Linux {}, {}, load {}",
        model.unwrap_or("unknown CPU"),
        read("/proc/sys/kernel/osrelease"),
        java.lines().next().unwrap_or("no Java"),
        read("/proc/loadavg")
            .split(' ')
            .take(3)
            .collect::<Vec<_>>()
            .join(" "),
    )
}
