//! A deadlock as a drawing: its members one below the other, each arrow the lock that one wants from the next, and the
//! last arrow back up to the first, so that it fits a phone. Blocked threads hang below the member that blocks them.

use std::cell::LazyCell;
use std::collections::{BTreeMap, HashMap};

use maud::{Markup, html};

use crate::expose::vitals::cut;
use crate::model::Deadlock;

/// The most members, and the most blocked threads in total, that are drawn; the rest is a number.
pub(super) const DRAWN: usize = 12;
/// The most threads between a blocked one and the member that it waits for in the end.
const HOPS: usize = 16;

const WIDTH: u32 = 360;
const LEFT: u32 = 40;
const BOX: u32 = 46;
/// The height of an arrow to the next box, which has its label beside it.
const ARROW: u32 = 40;
const LANE: u32 = 64;
const PILL: u32 = 24;
/// The number of characters that fit.
const NAME: usize = 40;
const LABEL: usize = 36;

struct Member {
    name: String,
    holds: String,
    wants: String,
    waits: Vec<String>,
}

/// Draws it; `id` must be unique in the page.
pub(super) fn draw(deadlock: &Deadlock, id: &str) -> Markup {
    let members = members(deadlock);
    let mut tops = Vec::new();
    let mut height = 2;
    for member in &members {
        tops.push(height);
        height += BOX + (PILL + 6) * member.waits.len() as u32 + ARROW;
    }
    let up = tops.first().copied().unwrap_or_default() + BOX / 2;
    let spoken = format!(
        "{} threads in a ring, each waiting for a lock that the next one holds, and {} more blocked behind it. \
         The list beside the drawing says the same in words.",
        deadlock.members(),
        deadlock.blocked()
    );
    html! {
        svg viewBox={ "0 0 " (WIDTH) " " (height) } role="img" aria-labelledby={ (id) "-title " (id) "-text" } {
            title id={ (id) "-title" } { "The deadlock" }
            desc id={ (id) "-text" } { (spoken) }
            defs { (head(&format!("{id}-head"), "")) (head(&format!("{id}-waits"), "waits-head")) }
            @for (index, (member, top)) in members.iter().zip(&tops).enumerate() {
                @let bottom = top + BOX;
                @let arrow = bottom + (PILL + 6) * member.waits.len() as u32;
                g.waits {
                    @for (row, name) in member.waits.iter().enumerate() {
                        @let y = bottom + 6 + (PILL + 6) * row as u32;
                        @if row == 0 {
                            path d={ "M92 " (y + PILL / 2 + (PILL + 6) * (member.waits.len() as u32 - 1)) " V" (bottom + 3) }
                                marker-end={ "url(#" (id) "-waits)" } {}
                        }
                        path d={ "M110 " (y + PILL / 2) " H92" } {}
                        rect x="110" y=(y) width="248" height=(PILL) rx="12" {}
                        text.small x="122" y=(y + 16) { (name) }
                    }
                }
                @if index + 1 < members.len() {
                    path d={ "M" (LANE) " " (bottom) " V" (arrow + ARROW - 3) } marker-end={ "url(#" (id) "-head)" } {}
                } @else {
                    path d={ "M" (LANE) " " (bottom) " V" (arrow + 18) " q0 8 -8 8 H20 q-8 0 -8 -8 V" (up + 8) " q0 -8 8 -8 H" (LEFT - 4) }
                        marker-end={ "url(#" (id) "-head)" } {}
                }
                text.small x=(LANE + 12) y=(arrow + 25) { (member.wants) }
                rect x=(LEFT) y=(top) width=(WIDTH - LEFT - 2) height=(BOX) rx="8" {}
                text.name x=(LEFT + 12) y=(top + 19) { (member.name) }
                text.small x=(LEFT + 12) y=(top + 36) { (member.holds) }
            }
        }
    }
}

fn head(id: &str, class: &str) -> Markup {
    html! {
        marker id=(id) class=(class) viewBox="0 0 8 8" refX="6" refY="4" markerWidth="9" markerHeight="9"
            markerUnits="userSpaceOnUse" orient="auto-start-reverse" { path d="M0 0 L8 4 L0 8 Z" {} }
    }
}

fn members(deadlock: &Deadlock) -> Vec<Member> {
    let cycle = &deadlock.cycle;
    let drawn = if cycle.len() > DRAWN {
        DRAWN - 1
    } else {
        cycle.len()
    };
    let mut members: Vec<Member> = Vec::new();
    for (index, thread) in cycle.iter().enumerate().take(drawn) {
        let holds = deadlock
            .held(index)
            .map(|held| format!("holds {}", class(held)))
            .unwrap_or_default();
        members.push(Member {
            name: cut(&thread.thread, NAME),
            holds: cut(&holds, LABEL),
            wants: cut(&format!("wants {}", class(&thread.wants)), LABEL),
            waits: Vec::new(),
        });
    }
    if cycle.len() > drawn {
        let name = format!("and {} more", deadlock.members() - drawn);
        let holds = "each wants what the next one holds".to_owned();
        members.push(Member {
            name,
            holds,
            wants: "wants what the first one holds".to_owned(),
            waits: Vec::new(),
        });
    }
    let Some(last) = members.len().checked_sub(1) else {
        return members;
    };
    // Threads blocked by a member that is not drawn hang below the box of the rest.
    let at: HashMap<&str, usize> = cycle
        .iter()
        .enumerate()
        .map(|(index, thread)| (thread.thread.as_str(), index.min(last)))
        .collect();
    let held_by = LazyCell::new(|| -> HashMap<&str, &str> {
        let waiting = deadlock.waiting.iter();
        waiting
            .map(|thread| (thread.thread.as_str(), thread.held_by.as_str()))
            .collect()
    });
    let mut hanging: BTreeMap<usize, Vec<(&str, bool)>> = BTreeMap::new();
    for thread in &deadlock.waiting {
        let mut holder = thread.held_by.as_str();
        let mut hops = 0;
        let mut member = at.get(holder);
        while member.is_none() && hops < HOPS {
            holder = held_by.get(holder).copied().unwrap_or_default();
            hops += 1;
            member = at.get(holder);
        }
        hanging
            .entry(member.copied().unwrap_or(last))
            .or_default()
            .push((&thread.thread, hops > 0));
    }
    let each = DRAWN / hanging.len().max(1);
    for (index, threads) in hanging {
        let drawn = match threads.len() > each.max(1) {
            true => each.max(2) - 1,
            false => threads.len(),
        };
        let names = threads.iter().take(drawn).map(|(name, through_others)| {
            let through = if *through_others {
                " (through others)"
            } else {
                ""
            };
            format!("{}{through}", cut(name, LABEL - through.len()))
        });
        let left = threads.len() - drawn;
        let more = (left > 0).then(|| format!("and {left} more"));
        if let Some(member) = members.get_mut(index) {
            member.waits = names.chain(more).collect();
        }
    }
    members
}

/// `GroupMetadata` of `kafka.coordinator.GroupMetadata`, `ReentrantLock` of `java.util.concurrent.locks.ReentrantLock$NonfairSync`.
fn class(full: &str) -> &str {
    let last = full.rsplit('.').next().unwrap_or(full);
    last.split('$')
        .find(|part| !part.is_empty())
        .unwrap_or(last)
}
