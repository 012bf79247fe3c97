//! `backends.NAME.algorithms`: a word for all kinds, or a word or list for each.

use super::super::algorithms::{Algorithms, CIPHER, HOST_KEY, KEX, Kind, MAC};
use super::super::raw::Node;
use super::Report;
use super::cursor::Cursor;

pub(super) fn algorithms(cursor: &Cursor<'_>, report: &mut Report) -> Option<Algorithms> {
    if matches!(cursor.node, Node::Text(_)) {
        return is_legacy(cursor, report)
            .map(|legacy| if legacy { Algorithms::legacy() } else { Algorithms::modern() });
    }
    if !matches!(cursor.node, Node::Mapping(_)) {
        cursor.wrong_type("`modern`, `legacy`, or a mapping with kex, host_key, cipher and mac", report);
        return None;
    }
    let mut fields = cursor.fields(report)?;
    let mut algorithms = Algorithms::modern();
    for (kind, names) in [
        (KEX, &mut algorithms.kex),
        (HOST_KEY, &mut algorithms.host_key),
        (CIPHER, &mut algorithms.cipher),
        (MAC, &mut algorithms.mac),
    ] {
        if let Some(written) = fields.take(kind.key).and_then(|cursor| one_kind(&kind, &cursor, report)) {
            *names = written;
        }
    }
    fields.finish(report);
    Some(algorithms)
}

fn is_legacy(cursor: &Cursor<'_>, report: &mut Report) -> Option<bool> {
    cursor.choice(&[("modern", false), ("legacy", true)], report)
}

fn one_kind(kind: &Kind, cursor: &Cursor<'_>, report: &mut Report) -> Option<Vec<&'static str>> {
    if matches!(cursor.node, Node::Text(_)) {
        return is_legacy(cursor, report).map(|legacy| if legacy { kind.legacy() } else { kind.modern() });
    }
    let choices: Vec<(&str, &'static str)> = kind.known().map(|name| (name, name)).collect();
    let items = cursor.list("`modern`, `legacy` or a list of names, the most wanted first", report)?;
    if items.is_empty() {
        cursor.wrong_with_hint("holds no algorithm", "leave the key out for its default", report);
        return None;
    }
    let names: Vec<_> = items.iter().filter_map(|item| item.choice(&choices, report)).collect();
    Some(names)
}
