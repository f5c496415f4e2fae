//! The runbooks of `docs/runbooks/`, built in, so that an alert's link opens without internet access.

use maud::{Markup, PreEscaped, html};
use pulldown_cmark::{Event, Options, Parser, Tag};

use super::page;
use crate::model::routes;
use crate::verdict::finding::FindingId;

// `RUNBOOKS`: the names, which are those of findings where there is one, with the texts in Markdown. `build.rs` makes it
// from the folder.
include!(concat!(env!("OUT_DIR"), "/runbooks.rs"));

/// The page of the runbook with this name.
pub fn page(name: &str) -> Option<Markup> {
    let (_, text) = RUNBOOKS.iter().find(|(known, _)| *known == name)?;
    let mut body = String::with_capacity(2 * text.len());
    pulldown_cmark::html::push_html(&mut body, events(text));
    Some(shell(title(text), &PreEscaped(body)))
}

/// A link to each runbook: those of findings from cause to symptom, then the others.
pub fn list() -> Markup {
    let mut runbooks = RUNBOOKS.to_vec();
    runbooks.sort_by_key(|(name, _)| {
        let mut findings = FindingId::ALL.iter();
        let position = findings.position(|finding| finding.runbook() == *name);
        position.unwrap_or(FindingId::ALL.len())
    });
    shell(
        "Runbooks",
        &html! {
            h1 { "Runbooks" }
            ul { @for (name, text) in runbooks { li { a href=(routes::of(routes::RUNBOOK, name)) { (title(text)) } } } }
        },
    )
}

/// The heading, which is the first line.
pub fn title(text: &'static str) -> &'static str {
    text.lines()
        .next()
        .unwrap_or_default()
        .trim_start_matches("# ")
}

/// Turns links between the files, `name.md`, into links between the pages.
fn events(text: &str) -> impl Iterator<Item = Event<'_>> {
    Parser::new_ext(text, Options::ENABLE_TABLES).map(|event| match event {
        Event::Start(Tag::Link {
            link_type,
            dest_url,
            title,
            id,
        }) => {
            let dest_url = match dest_url.strip_suffix(".md") {
                Some(name) => routes::of(routes::RUNBOOK, name).into(),
                None => dest_url,
            };
            Event::Start(Tag::Link {
                link_type,
                dest_url,
                title,
                id,
            })
        }
        other => other,
    })
}

fn shell(title: &str, content: &Markup) -> Markup {
    page::shell(
        &format!("kafka-vitals: {title}"),
        &html! {
            nav { a href=(routes::PAGE) { "Brokers of this host" } a href=(routes::RUNBOOKS) { "Runbooks" } }
            main.text { (content) }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::finding::FindingId;

    #[test]
    fn every_finding_has_a_runbook_with_its_title() {
        for id in FindingId::ALL {
            let text = RUNBOOKS.iter().find(|(name, _)| *name == id.runbook());
            assert_eq!(text.map(|(_, text)| title(text)), Some(id.kind().title));
        }
    }
}
