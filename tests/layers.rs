//! The arrows of `docs/design.md`, read off the source: which folder of `src/` may name which.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use syn::visit::Visit;
use syn::{Attribute, UsePath, UseTree};

/// Each part of the crate with the parts it may use. `part::inner` allows that module of a part and no other. Everybody may
/// use `error` and `settings`.
const ARROWS: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("settings", &[]),
    ("files", &[]),
    ("engine", &[]),
    ("ops", &["engine"]),
    ("nn", &["engine", "ops"]),
    ("data", &["engine::rng", "engine::tensor", "files"]),
    ("eval", &["engine::rng"]),
    // Not `engine::exec::gpu`: a method knows no device.
    (
        "methods",
        &[
            "data",
            "engine::Feed",
            "engine::Graph",
            "engine::Tensor",
            "engine::TensorType",
            "engine::ValueId",
            "engine::exec::simd",
            "engine::grad",
            "engine::graph",
            "engine::params",
            "engine::rng",
            "files",
            "nn",
            "ops",
        ],
    ),
    ("train", &["data", "engine", "eval", "files", "methods", "nn", "ops"]),
    ("verify", &["engine", "eval", "ops"]),
    ("bench", &["data", "engine", "methods", "ops", "train"]),
    // Neither `ops` nor `nn`: a command knows no kernel.
    ("cli", &["bench", "data", "engine", "eval", "files", "methods", "train", "verify"]),
];

/// Every `.rs` file below a path.
fn sources(path: &Path) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.into()];
    }
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.is_dir() || path.extension().is_some_and(|e| e == "rs"))
        .flat_map(|p| sources(&p))
        .collect()
}

/// The paths into the crate that some code names, `engine::rng::Stream` and such, and the other crates. Tests may name
/// anything.
#[derive(Default)]
struct Uses {
    own: BTreeSet<String>,
    others: BTreeSet<String>,
}

impl Uses {
    fn of(code: &str) -> Uses {
        let mut uses = Uses::default();
        uses.visit_file(&syn::parse_file(code).expect("it compiles"));
        uses
    }

    fn insert(&mut self, path: &str) {
        match path.split_once("::") {
            Some(("crate", own)) => self.own.insert(own.into()),
            Some((first, _)) => self.others.insert(first.into()),
            None => false,
        };
    }

    /// The leaves of a `use`, each behind `prefix`.
    fn insert_tree(&mut self, prefix: &str, tree: &UseTree) {
        match tree {
            UseTree::Path(UsePath { ident, tree, .. }) => self.insert_tree(&format!("{prefix}{ident}::"), tree),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.insert_tree(prefix, tree)),
            UseTree::Name(leaf) => self.insert(&format!("{prefix}{}", leaf.ident)),
            UseTree::Rename(leaf) => self.insert(&format!("{prefix}{}", leaf.ident)),
            UseTree::Glob(_) => self.insert(prefix.trim_end_matches("::")),
        }
    }
}

impl<'ast> Visit<'ast> for Uses {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.insert_tree("", &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.insert(&names.join("::"));
        syn::visit::visit_path(self, path);
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        let is_test = |attribute: &Attribute| {
            attribute.path().is_ident("cfg") && attribute.parse_args::<syn::Ident>().is_ok_and(|of| of == "test")
        };
        if !module.attrs.iter().any(is_test) {
            syn::visit::visit_item_mod(self, module);
        }
    }
}

/// What each file of `src` uses, by its path in there, but for files of tests.
fn uses_of_files() -> BTreeMap<PathBuf, Uses> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let is_test = |path: &PathBuf| path.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with("tests"));
    let programs = sources(&src).into_iter().filter(|path| !is_test(path));
    programs
        .map(|path| (path.strip_prefix(&src).unwrap().into(), Uses::of(&fs::read_to_string(&path).unwrap())))
        .collect()
}

/// `engine::rng` allows `engine::rng::Stream`, and `engine` all of the engine.
fn allows(arrow: &str, used: &str) -> bool {
    used.strip_prefix(arrow).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[test]
fn every_arrow_between_the_parts_points_the_way_of_the_design() {
    let parts: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let part_of =
        |path: &str| path.split("::").next().and_then(|first| parts.get_key_value(first)).map(|(part, _)| *part);
    let mut against = Vec::new();
    for (file, uses) in uses_of_files() {
        let own = file.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        if ["lib", "main"].contains(&own) {
            continue;
        }
        let allowed = parts.get(own).unwrap_or_else(|| panic!("src/{own} has no place in ARROWS"));
        let strangers = uses
            .own
            .iter()
            .filter(|used| part_of(used).is_some_and(|part| part != own && !["error", "settings"].contains(&part)));
        let refused = strangers.filter(|used| !allowed.iter().any(|arrow| allows(arrow, used)));
        against.extend(refused.map(|used| format!("{} names {used}", file.display())));
    }
    assert!(against.is_empty(), "against the arrows of tests/layers.rs:\n{}", against.join("\n"));
}

#[test]
fn wgpu_is_named_by_the_gpu_executor_alone() {
    let named = |(file, uses): (PathBuf, Uses)| uses.others.contains("wgpu").then_some(file);
    let files: Vec<PathBuf> = uses_of_files().into_iter().filter_map(named).collect();
    assert!(!files.is_empty());
    assert!(files.iter().all(|file| file.starts_with("engine/exec/gpu")), "{files:?}");
}

/// Each row of "The path of one interaction" begins with files of `src` and what to look at in them.
#[test]
fn the_path_of_one_interaction_leads_through_places_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/design.md")).unwrap();
    let section = page.split("## The path of one interaction").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows: Vec<&str> = section.lines().filter(|line| line.starts_with("| `")).collect();
    assert!(rows.len() > 15, "the table is there");
    for row in rows {
        let words = row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2);
        let (files, names): (Vec<&str>, Vec<&str>) = words.partition(|word| word.ends_with(".rs"));
        let texts = files.iter().map(|file| fs::read_to_string(root.join("src").join(file)));
        let text: String = texts.map(|text| text.unwrap_or_else(|e| panic!("{row}: {e}"))).collect();
        for name in names.iter().map(|name| name.rsplit("::").next().unwrap()) {
            let declared = ["fn", "struct"].iter().any(|kind| text.contains(&format!("{kind} {name}")));
            assert!(declared, "{row}: {name} is not there");
        }
    }
}

#[test]
fn lists_whole_paths_and_other_crates_are_seen_but_no_tests() {
    let code = "use crate::engine::{Feed, exec::gpu as device}; use wgpu::Limits;
        fn f() -> crate::ops::Add { std::process::exit(1) }
        #[cfg(test)] mod tests { use crate::data::Packed; }";
    let Uses { own, others } = Uses::of(code);
    assert_eq!(own.into_iter().collect::<Vec<_>>(), ["engine::Feed", "engine::exec::gpu", "ops::Add"]);
    assert_eq!(others.into_iter().collect::<Vec<_>>(), ["std", "wgpu"]);
    assert!(allows("engine", "engine::Feed") && allows("ops", "ops") && !allows("engine::exec", "engine::executor"));
}
