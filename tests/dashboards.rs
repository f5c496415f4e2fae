//! Checks the dashboards by the rules of Grafana's dashboard-linter and some of our own, and every expression.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/promql.rs"]
mod promql;

use promql::{labels_of, names_after};
use serde_json::{Value, json};

const VARIABLES: [&str; 6] = [
    "datasource",
    "job",
    "cluster",
    "instance",
    "broker",
    "shown",
];

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

/// With those of rows that are collapsed.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let panels = list(dashboard, "panels").iter();
    panels
        .flat_map(|panel| std::iter::once(panel).chain(list(panel, "panels")))
        .collect()
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
        // The form of grafana.com asks for the data source; provisioning ignores it, and Grafana takes its first one.
        let input = &list(&dashboard, "__inputs")[0];
        let name = format!("${{{}}}", text(input, "name"));
        assert_eq!(input["pluginId"], "prometheus", "{path}");
        assert!(!list(&dashboard, "__requires").is_empty(), "{path}");
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
        assert_eq!(variables[0]["current"]["value"], name, "{path}");
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
            if variable["name"] == "shown" {
                check_shown(variable);
                continue;
            }
            // A label that no target has, such as the cluster, is chosen by .* only.
            let all = ["job", "instance"].contains(&text(variable, "name"));
            let all = if all { ".+" } else { ".*" };
            assert_eq!(variable["allValue"], all, "{path}");
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

/// Of hundreds of brokers only those are drawn that were not well and those nearest to a limit.
#[track_caller]
fn check_shown(variable: &Value) {
    let query = text(variable, "definition")
        .strip_prefix("query_result(")
        .unwrap();
    let query = query
        .strip_suffix(')')
        .unwrap()
        .replace("${__range_s}s", "30m");
    assert!(labels_of(&query).contains("broker"), "{query}");
    assert_eq!(variable["regex"], r#"/broker="([^"]*)"/"#);
    // All is then what the query returns.
    assert_eq!(variable["allValue"], Value::Null);
}

/// The most rows or lines that a panel of 200 brokers may have.
const MOST_ROWS: usize = 200;

/// A panel that has a row or a line for each broker shows a bounded number of them.
#[track_caller]
fn check_bound(expression: &str) {
    let labels = labels_of(expression);
    let each = ["broker", "instance", "peer", "group", "topic", "id"];
    let bound = ["topk(", "bottomk("]
        .into_iter()
        .flat_map(|choose| expression.split(choose).skip(1))
        .filter_map(|rest| rest.split(',').next()?.parse::<usize>().ok())
        .max();
    let mut chosen = expression.split("broker=~").skip(1).peekable();
    let is_shown = chosen.peek().is_some() && chosen.all(|rest| rest.starts_with("\"$shown\""));
    let is_bound = bound.is_some_and(|bound| bound <= MOST_ROWS) || is_shown;
    assert!(
        is_bound || !each.iter().any(|label| labels.contains(*label)),
        "{expression}"
    );
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
        let panels = panels(&dashboard);
        let stats: Vec<&&Value> = panels
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
                if panel["type"] != "stat" {
                    check_bound(text(target, "expr"));
                }
            }
        }
    }
}

#[test]
fn panels_do_not_overlap_and_fill_the_width() {
    for (path, _, dashboard) in dashboards() {
        let mut cells = std::collections::BTreeMap::<u64, Vec<bool>>::new();
        for panel in panels(&dashboard) {
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
