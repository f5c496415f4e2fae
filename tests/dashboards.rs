//! Checks the dashboards by the rules of Grafana's dashboard-linter and some of our own, and every expression.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/promql.rs"]
mod promql;

use promql::{labels_of, names_after};
use serde_json::{Value, json};

const VARIABLES: [&str; 5] = ["datasource", "job", "cluster", "instance", "broker"];

/// Returns the path, text and JSON of each.
fn dashboards() -> [(&'static str, String, Value); 2] {
    ["dashboards/cluster.json", "dashboards/broker.json"].map(|path| {
        let text = std::fs::read_to_string(path).unwrap();
        let dashboard = serde_json::from_str(&text).unwrap();
        (path, text, dashboard)
    })
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("no {key} in {value}"))
}

/// Keys are sorted and indented by two spaces, so that a diff shows only what changed. `make docs` writes this form.
#[test]
fn golden_form() {
    for (path, text, dashboard) in dashboards() {
        let form = serde_json::to_string_pretty(&dashboard).unwrap() + "\n";
        if std::env::var_os("KAFKA_VITALS_REFRESH").is_some() {
            std::fs::write(path, form).unwrap();
        } else {
            assert!(text == form, "{path}: run `make docs`");
        }
    }
}

#[test]
fn a_dashboard_can_be_shared_and_shows_everything_at_first() {
    for (path, _, dashboard) in dashboards() {
        assert_eq!(
            (&dashboard["editable"], &dashboard["graphTooltip"]),
            (&json!(false), &json!(1)),
            "{path}"
        );
        assert_eq!(dashboard["tags"], json!(["kafka-vitals"]), "{path}");
        let links = list(&dashboard, "links");
        assert!(
            links
                .iter()
                .any(|link| link["tags"] == dashboard["tags"] && link["keepTime"] == true),
            "{path}"
        );
        let variables = list(&dashboard["templating"], "list");
        assert_eq!(
            variables
                .iter()
                .map(|variable| text(variable, "name"))
                .collect::<Vec<_>>(),
            VARIABLES,
            "{path}"
        );
        assert_eq!(variables[0]["type"], "datasource", "{path}");
        for variable in &variables[1..] {
            // Refreshed when the time range changes, with several values, and All by default: if the first broker alone
            // were shown, it would hide a sick one.
            let set = ["refresh", "multi", "includeAll"].map(|key| &variable[key]);
            assert_eq!(
                set,
                [&json!(2), &json!(true), &json!(true)],
                "{path}: {}",
                variable["name"]
            );
            assert_eq!(
                variable["current"]["value"],
                json!(["$__all"]),
                "{path}: {}",
                variable["name"]
            );
            assert_eq!(variable["datasource"]["uid"], "${datasource}", "{path}");
            let query = text(variable, "definition")
                .strip_prefix("label_values(")
                .unwrap()
                .strip_suffix(')')
                .unwrap();
            let (series, label) = query.rsplit_once(", ").unwrap();
            assert!(labels_of(series).contains(label), "{path}: {query}");
        }
        let annotations = list(&dashboard["annotations"], "list");
        let names: Vec<&str> = annotations.iter().map(|one| text(one, "name")).collect();
        assert_eq!(names, ["Deadlock", "Restart", "ISR shrinks"], "{path}");
        for annotation in annotations {
            check_expression(text(annotation, "expr"), text(annotation, "textFormat"));
        }
    }
}

/// The expression names only what exists and selects only the chosen targets; the legend shows labels of the result.
#[track_caller]
fn check_expression(expression: &str, legend: &str) {
    let labels = labels_of(expression);
    for used in names_after(legend, "{{") {
        assert!(
            labels.contains(used),
            "{expression}: no label {used} for {legend:?}, only {labels:?}"
        );
    }
    for selector in expression.split('{').skip(1) {
        let selector = selector.split('}').next().unwrap();
        // Alerts that aggregate have no instance.
        let chosen: &[&str] = if selector.contains("alertname=") {
            &["cluster=~\"$cluster\""]
        } else {
            &[
                "job=~\"$job\"",
                "cluster=~\"$cluster\"",
                "instance=~\"$instance\"",
            ]
        };
        for matcher in chosen {
            assert!(
                selector.contains(matcher),
                "{expression}: {{{selector}}} does not choose by {matcher}"
            );
        }
    }
    for function in ["rate(", "increase(", "delta("] {
        for call in expression.split(function).skip(1) {
            let range = call.split(['[', ']']).nth(1).unwrap();
            assert!(
                ["$__rate_interval", "$__range"].contains(&range),
                "{expression}: [{range}]"
            );
        }
    }
}

#[test]
fn every_panel_explains_what_it_shows() {
    for (path, _, dashboard) in dashboards() {
        let panels = list(&dashboard, "panels");
        let stats: Vec<&Value> = panels
            .iter()
            .take_while(|panel| panel["type"] == "stat")
            .collect();
        assert_eq!(
            stats.len(),
            8,
            "{path}: the first row answers whether it is well"
        );
        let mut ids: Vec<_> = panels
            .iter()
            .map(|panel| panel["id"].as_u64().unwrap())
            .collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), panels.len(), "{path}: ids");
        for panel in panels.iter().filter(|panel| panel["type"] != "row") {
            let title = text(panel, "title");
            let name = format!("{path}: {title}");
            assert!(
                !title.is_empty() && text(panel, "description").ends_with('.'),
                "{name}"
            );
            // None of these is deprecated.
            assert!(
                ["timeseries", "stat", "state-timeline", "table"].contains(&text(panel, "type")),
                "{name}"
            );
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{name}");
            let defaults = &panel["fieldConfig"]["defaults"];
            assert!(!text(defaults, "unit").is_empty(), "{name}: unit");
            assert!(
                !list(&defaults["thresholds"], "steps").is_empty(),
                "{name}: thresholds"
            );
            assert!(!list(panel, "targets").is_empty(), "{name}: targets");
            for target in list(panel, "targets") {
                assert_eq!(target["datasource"]["uid"], "${datasource}", "{name}");
                check_expression(text(target, "expr"), text(target, "legendFormat"));
            }
        }
    }
}

#[test]
fn panels_do_not_overlap_and_fill_the_width() {
    for (path, _, dashboard) in dashboards() {
        let mut cells = std::collections::BTreeMap::<u64, Vec<bool>>::new();
        for panel in list(&dashboard, "panels") {
            let [x, y, w, h] =
                ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
            for line in y..y + h {
                let line = cells.entry(line).or_insert_with(|| vec![false; 24]);
                for cell in &mut line[x as usize..(x + w) as usize] {
                    assert!(!std::mem::replace(cell, true), "{path}: {}", panel["title"]);
                }
            }
        }
        let holes = cells
            .iter()
            .filter(|(_, line)| line.contains(&false))
            .map(|(y, _)| y);
        assert_eq!(holes.collect::<Vec<_>>(), Vec::<&u64>::new(), "{path}");
    }
}
