//! Holds the map that `src/lib.rs` draws: which folder may use which, and that no two files use each other.
//!
//! It reads every file of `src` with `syn` and follows each path that starts with `crate`, `self` or `super` to the file
//! that defines its target, through `pub use`. Code under `#[cfg(test)]` is not part of the map.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::Visit;

/// Each part of `src` with those that it may use. A part is a folder or, without one, a file.
const MAY_USE: [(&str, &[&str]); 16] = [
    ("model", &[]),
    ("sys", &["model"]),
    ("kafka", &["model"]),
    ("parse", &["model"]),
    ("threads", &["model", "parse"]),
    ("discover", &["model", "sys"]),
    ("verdict", &["model", "threads"]),
    ("cli", &["model"]),
    ("recording", &["model", "sys"]),
    (
        "config",
        &["cli", "model", "recording", "sys", "threads", "verdict"],
    ),
    (
        "collect",
        &[
            "config", "discover", "kafka", "model", "parse", "sys", "threads",
        ],
    ),
    (
        "evidence",
        &[
            "collect", "config", "discover", "model", "sys", "threads", "verdict",
        ],
    ),
    (
        "analyze",
        &[
            "discover", "evidence", "kafka", "model", "parse", "threads", "verdict",
        ],
    ),
    ("expose", &["model", "sys", "threads", "verdict"]),
    (
        "commands",
        &[
            "analyze",
            "cli",
            "collect",
            "config",
            "evidence",
            "expose",
            "model",
            "parse",
            "recording",
            "sys",
            "verdict",
        ],
    ),
    ("main", &["cli", "commands", "sys"]),
];

/// A module by its path below the crate: `["sys", "attach", "child"]`.
type Module = Vec<String>;

struct SourceFile {
    path: PathBuf,
    items: Vec<syn::Item>,
}

#[test]
fn every_part_uses_only_what_the_map_allows() {
    let house = House::read();
    let mut wrong = Vec::new();
    for (from, to) in house.arrows() {
        let (from_part, to_part) = (house.part(&from), house.part(&to));
        let (_, allowed) = MAY_USE
            .iter()
            .find(|(part, _)| *part == from_part)
            .unwrap_or_else(|| panic!("{from_part} is not on the map of tests/map.rs"));
        if from_part != to_part && !allowed.contains(&to_part.as_str()) {
            wrong.push(format!("{} uses {}", house.file(&from), house.file(&to)));
        }
    }
    assert!(
        wrong.is_empty(),
        "against the map:\n{}\nMove what is shared to where both may look, or redraw the map.",
        wrong.join("\n")
    );
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let house = House::read();
    let mut uses: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
    for (from, to) in house.arrows() {
        uses.entry(from).or_default().insert(to);
    }
    // A file that uses no other one, or that no other one uses, is in no circle: without those, again and again, only
    // circles and the ways between them remain.
    loop {
        let used: BTreeSet<Module> = uses.values().flatten().cloned().collect();
        let before = uses.len();
        let users: BTreeSet<Module> = uses.keys().cloned().collect();
        uses.retain(|from, to| {
            to.retain(|to| users.contains(to));
            used.contains(from) && !to.is_empty()
        });
        if uses.len() == before {
            break;
        }
    }
    let mutual: Vec<String> = uses
        .iter()
        .flat_map(|(from, used)| used.iter().map(move |to| (from, to)))
        .map(|(from, to)| format!("{} uses {}", house.file(from), house.file(to)))
        .collect();
    assert!(mutual.is_empty(), "in a circle:\n{}", mutual.join("\n"));
}

#[test]
fn lib_rs_names_every_part() {
    let text = fs::read_to_string("src/lib.rs").unwrap();
    let (map, _) = text.split_once("#[").unwrap();
    for (part, _) in MAY_USE.iter().filter(|(part, _)| *part != "main") {
        assert!(
            map.contains(&format!("[`{part}`]")),
            "the map of src/lib.rs lacks {part}"
        );
    }
}

/// Every file of `src`, by its module.
struct House {
    files: BTreeMap<Module, SourceFile>,
}

impl House {
    fn read() -> House {
        let mut files = BTreeMap::new();
        House::read_folder(Path::new("src"), &mut Vec::new(), &mut files);
        assert!(files.len() > 50, "only {} files were read", files.len());
        House { files }
    }

    fn read_folder(folder: &Path, module: &mut Module, files: &mut BTreeMap<Module, SourceFile>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                module.push(name);
                House::read_folder(&path, module, files);
                module.pop();
            } else if path.extension().is_some_and(|ext| ext == "rs") && name != "tests" {
                let mut own = module.clone();
                if !["mod", "lib"].contains(&name.as_str()) {
                    own.push(name);
                }
                let text = fs::read_to_string(&path).unwrap();
                let items = syn::parse_file(&text).unwrap().items;
                files.insert(own, SourceFile { path, items });
            }
        }
    }

    fn file(&self, module: &Module) -> String {
        self.files[module].path.display().to_string()
    }

    fn part(&self, module: &Module) -> String {
        module.first().cloned().unwrap_or_else(|| "lib".to_owned())
    }

    /// From the file that names something to the file that defines it. `lib.rs` only lists the modules.
    fn arrows(&self) -> BTreeSet<(Module, Module)> {
        let mut arrows = BTreeSet::new();
        for (module, file) in self.files.iter().filter(|(module, _)| !module.is_empty()) {
            let mut paths = Paths::default();
            file.items.iter().for_each(|item| paths.visit_item(item));
            for path in paths.found {
                if let Some(to) = self.resolve(module, &path, 0).filter(|to| to != module) {
                    arrows.insert((module.clone(), to));
                }
            }
        }
        assert!(
            arrows.len() > 100,
            "only {} arrows were found",
            arrows.len()
        );
        arrows
    }

    /// The file in which `path`, written in `from`, is defined. None for another crate's item.
    fn resolve(&self, from: &Module, path: &[String], depth: usize) -> Option<Module> {
        assert!(depth < 8, "{path:?} is re-exported in a circle");
        let (first, mut rest) = path.split_first()?;
        let mut module = match first.as_str() {
            "crate" | "kafka_vitals" => Module::new(),
            "self" => from.clone(),
            "super" => from[..from.len().checked_sub(1)?].to_vec(),
            // A child module, or a name that an earlier `use` brought in.
            name => {
                let mut child = from.clone();
                child.push(name.to_owned());
                if !self.files.contains_key(&child) {
                    return None;
                }
                child
            }
        };
        while let Some((next, further)) = rest.split_first() {
            if next == "super" {
                module.pop()?;
            } else {
                let mut child = module.clone();
                child.push(next.clone());
                if !self.files.contains_key(&child) {
                    break;
                }
                module = child;
            }
            rest = further;
        }
        match rest.first() {
            // `use super::*` in a file of tests, or a module that is named as a whole.
            None => Some(module),
            Some(name) => Some(
                self.reexport(&module, name, depth)
                    .unwrap_or_else(|| module.clone()),
            ),
        }
    }

    /// Where `pub use` in `module` takes `name` from.
    fn reexport(&self, module: &Module, name: &str, depth: usize) -> Option<Module> {
        self.files[module].items.iter().find_map(|item| match item {
            syn::Item::Use(item) if !matches!(item.vis, syn::Visibility::Inherited) => {
                let mut paths = Vec::new();
                flatten(&item.tree, &mut Vec::new(), &mut paths);
                let path = paths
                    .into_iter()
                    .find(|path| path.last().unwrap() == name)?;
                self.resolve(module, &path, depth + 1)
            }
            _ => None,
        })
    }
}

/// The paths in one file that may lead to another one.
#[derive(Default)]
struct Paths {
    found: Vec<Vec<String>>,
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            _ => return syn::visit::visit_item(self, item),
        };
        if !attributes.iter().any(is_for_tests) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        // A `pub use` is no use: a file that takes the name from here uses the file that defines it.
        if matches!(item.vis, syn::Visibility::Inherited) {
            flatten(&item.tree, &mut Vec::new(), &mut self.found);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names = path.segments.iter().map(|part| part.ident.to_string());
        self.found.push(names.collect());
        syn::visit::visit_path(self, path);
    }

    /// `pub(crate)` names no file.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        // Inside of a macro call nothing is parsed: its tokens are searched for paths.
        self.visit_path(&call.path);
        let text = call.tokens.to_string().replace(' ', "");
        for start in ["crate::", "super::", "self::"] {
            for (at, _) in text.match_indices(start) {
                let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
                let path = text[at..].split(|c| !is_path(c)).next().unwrap();
                let names = path.split("::").filter(|name| !name.is_empty());
                self.found.push(names.map(str::to_owned).collect());
            }
        }
    }
}

fn is_for_tests(attribute: &syn::Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && attribute
            .parse_args::<syn::Path>()
            .is_ok_and(|condition| condition.is_ident("test"))
}

/// Each name of a `use` with its whole path.
fn flatten(tree: &syn::UseTree, before: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    let mut path = before.clone();
    match tree {
        syn::UseTree::Path(part) => {
            before.push(part.ident.to_string());
            flatten(&part.tree, before, found);
            before.pop();
        }
        syn::UseTree::Group(group) => {
            for tree in &group.items {
                flatten(tree, before, found);
            }
        }
        syn::UseTree::Name(name) if name.ident == "self" => found.push(path),
        syn::UseTree::Name(name) => {
            path.push(name.ident.to_string());
            found.push(path);
        }
        syn::UseTree::Rename(rename) => {
            path.push(rename.ident.to_string());
            found.push(path);
        }
        syn::UseTree::Glob(_) => found.push(path),
    }
}
