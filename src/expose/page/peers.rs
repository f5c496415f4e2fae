//! Links to the pages beside the other brokers of the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use maud::{Markup, html};

use crate::model::Moment;
use crate::verdict::View;

/// Links, each with the host's name, which a broker may make long.
const MOST: usize = 8;

/// Where an exporter beside each other broker would be, at the port of this one.
pub(super) fn links(view: &View, port: Option<u16>, now: Moment) -> Markup {
    let brokers = &view.snapshot.brokers;
    let here: BTreeSet<i32> = brokers
        .iter()
        .filter_map(|broker| broker.broker.id)
        .collect();
    let counts = brokers
        .iter()
        .filter_map(|broker| broker.cluster.fresh(now));
    let peers = counts.flat_map(|counts| counts.live_brokers.iter());
    let others = peers.filter(|peer| !here.contains(&peer.id));
    let pages: BTreeMap<i32, (&str, String)> = others
        .filter_map(|peer| Some((peer.id, (&*peer.host, page_at(&peer.host, port?)?))))
        .collect();
    html! {
        @if !pages.is_empty() {
            p.dim {
                "Pages beside other brokers of the cluster, where an exporter has this port: "
                @for (index, (id, (host, page))) in pages.iter().take(MOST).enumerate() {
                    @if index > 0 { ", " }
                    a href=(page) { (id) " (" (host) ")" }
                }
                @if pages.len() > MOST { " and " (pages.len() - MOST) " more" }
            }
        }
    }
}

/// The address of the page, by the same scheme as this one. None for what is no name or address of another host.
fn page_at(host: &str, port: u16) -> Option<String> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    match host.parse::<IpAddr>() {
        Ok(ip) if ip.is_loopback() || ip.is_unspecified() => None,
        Ok(IpAddr::V6(ip)) => Some(format!("//[{ip}]:{port}/")),
        Ok(ip) => Some(format!("//{ip}:{port}/")),
        Err(_) if host.is_empty() || host == "localhost" || !host.chars().all(is_of_name) => None,
        Err(_) => Some(format!("//{host}:{port}/")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leads_to_another_host_and_nowhere_else() {
        let table = [
            ("broker2.example.org", Some("//broker2.example.org:10052/")),
            ("10.0.0.2", Some("//10.0.0.2:10052/")),
            ("fd00::2", Some("//[fd00::2]:10052/")),
            ("127.0.0.1", None),
            ("::1", None),
            ("0.0.0.0", None),
            ("localhost", None),
            ("", None),
            ("evil/x?", None),
            ("a@b", None),
            ("x:80", None),
        ];
        for (host, expected) in table {
            assert_eq!(page_at(host, 10052).as_deref(), expected, "{host}");
        }
    }
}
