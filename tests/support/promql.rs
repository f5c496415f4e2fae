//! What an expression of a rule or a panel names, against the catalogue of metrics.
#![allow(dead_code)] // each test binary uses a part
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;

use kafka_vitals::expose::metrics::CATALOGUE;
use promql_parser::parser::{self, Expr, LabelModifier, VectorSelector};

/// Labels that Prometheus gives to every series of a target.
const OF_TARGET: [&str; 3] = ["cluster", "instance", "job"];

type Labels = BTreeSet<String>;

/// The labels that the result has; panics with all that is wrong about the expression.
#[track_caller]
pub fn labels_of(expression: &str) -> Labels {
    // Grafana puts in times where it evaluates.
    let text = expression
        .replace("$__rate_interval", "1m")
        .replace("$__range", "30m");
    let parsed = parser::parse(&text).unwrap_or_else(|error| panic!("{expression}: {error}"));
    let mut wrong = Vec::new();
    let labels = walk(&parsed, &mut wrong);
    assert!(wrong.is_empty(), "{expression}:\n{}", wrong.join("\n"));
    labels
}

fn walk(expression: &Expr, wrong: &mut Vec<String>) -> Labels {
    match expression {
        Expr::VectorSelector(selector) => {
            let metric = CATALOGUE
                .iter()
                .find(|metric| Some(metric.name) == selector.name.as_deref());
            if metric.is_some_and(|metric| metric.is_counter()) {
                wrong.push(format!("the counter {selector} without rate or increase"));
            }
            of_selector(selector, wrong)
        }
        Expr::MatrixSelector(selector) => of_selector(&selector.vs, wrong),
        Expr::Aggregate(aggregate) => {
            let inner = walk(&aggregate.expr, wrong);
            match &aggregate.modifier {
                Some(LabelModifier::Include(by)) => known(by.labels.iter(), &inner, wrong),
                Some(LabelModifier::Exclude(without)) => {
                    let without = known(without.labels.iter(), &inner, wrong);
                    &inner - &without
                }
                // They choose series, and change none.
                None if ["topk", "bottomk"].contains(&aggregate.op.to_string().as_str()) => inner,
                None => Labels::new(),
            }
        }
        Expr::Binary(binary) => {
            let (left, right) = (walk(&binary.lhs, wrong), walk(&binary.rhs, wrong));
            let Some(modifier) = &binary.modifier else {
                return if left.is_empty() { right } else { left };
            };
            if let Some(matching) = &modifier.matching {
                let matching = matching.labels();
                known(matching.labels.iter(), &(&left | &right), wrong);
            }
            match modifier.card.labels() {
                Some(joined) => &left | &known(joined.labels.iter(), &right, wrong),
                // A number has no labels; the other side's are the result's.
                None if left.is_empty() => right,
                None => left,
            }
        }
        Expr::Call(call) => {
            let mut labels = Labels::new();
            for argument in &call.args.args {
                labels.extend(walk(argument, wrong));
            }
            if call.func.name == "label_replace"
                && let Expr::StringLiteral(new) = &*call.args.args[1]
            {
                labels.insert(new.val.clone());
            }
            labels
        }
        Expr::Paren(paren) => walk(&paren.expr, wrong),
        Expr::Unary(unary) => walk(&unary.expr, wrong),
        Expr::Subquery(subquery) => walk(&subquery.expr, wrong),
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) | Expr::Extension(_) => Labels::new(),
    }
}

fn of_selector(selector: &VectorSelector, wrong: &mut Vec<String>) -> Labels {
    let name = selector.name.as_deref().unwrap_or_default();
    let of_catalogue = CATALOGUE.iter().map(|metric| (metric.name, metric.labels));
    let of_prometheus: [(&str, &[&str]); 3] = [
        ("up", &[]),
        // Recorded by alerts/kafka-vitals.rules.yml.
        ("job_instance:kafka_vitals_exporter:seen", &[]),
        (
            "ALERTS",
            &["alertname", "alertstate", "severity", "layer", "broker"],
        ),
    ];
    let mut every = of_catalogue.chain(of_prometheus);
    let Some((_, labels)) = every.find(|(known, _)| *known == name) else {
        wrong.push(format!("no metric {name:?} in the catalogue"));
        return Labels::new();
    };
    let labels: Labels = labels
        .iter()
        .chain(&OF_TARGET)
        .map(|label| (*label).to_owned())
        .collect();
    known(
        selector
            .matchers
            .matchers
            .iter()
            .map(|matcher| &matcher.name),
        &labels,
        wrong,
    );
    labels
}

fn known<'a>(
    names: impl Iterator<Item = &'a String>,
    labels: &Labels,
    wrong: &mut Vec<String>,
) -> Labels {
    let names: Labels = names.cloned().collect();
    wrong.extend(
        names
            .difference(labels)
            .map(|name| format!("no label {name:?} here, only {labels:?}")),
    );
    names
}

/// The words after `mark` in a text, up to what cannot be part of a name.
pub fn names_after<'a>(text: &'a str, mark: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(mark).skip(1).map(|rest| {
        let end = rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        &rest[..end]
    })
}
