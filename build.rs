//! Makes the lists of ops (the files of `src/ops`), methods (the presets of `src/methods`), formats of data (`src/data/formats`),
//! shader libraries (`shaders/lib`) and manifests of data sets (`datasets`). An op file without `KERNELS` or `cases()` does
//! not compile, nor does a preset without its method; a shader that no op file names stops the build here.

use std::{env, fs, path::Path};

/// The names in a folder that end so, without the ending; hidden ones are left out.
fn stems(folder: &Path, ending: &str) -> Vec<String> {
    println!("cargo:rerun-if-changed={}", folder.display());
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("cannot read {}: {e}", folder.display()));
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(ending).map(String::from))
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    names
}

/// The files beside `mod.rs`.
fn siblings(folder: &Path) -> Vec<String> {
    stems(folder, ".rs").into_iter().filter(|name| name != "mod").collect()
}

fn source(folder: &Path, stem: &str) -> String {
    let file = folder.join(stem).with_extension("rs");
    println!("cargo:rerun-if-changed={}", file.display());
    fs::read_to_string(&file).expect("the file was just listed")
}

fn main() {
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let out = env::var("OUT_DIR").expect("cargo sets it");
    let (ops_folder, shader_folder) = (Path::new(&root).join("src/ops"), Path::new(&root).join("shaders"));
    let ops = siblings(&ops_folder);
    let mut text = modules(&ops_folder, &ops);
    let mut sources: String = ops.iter().map(|op| source(&ops_folder, op)).collect();
    for folder in stems(&ops_folder, "").iter().map(|name| ops_folder.join(name)).filter(|path| path.is_dir()) {
        sources.extend(stems(&folder, ".rs").iter().map(|part| source(&folder, part)));
    }
    text.push_str("\n/// Every op, in the order of their names.\npub const OP_FILES: &[OpFile] = &[\n");
    for op in &ops {
        text.push_str(&format!("    OpFile {{ name: {op:?}, kernels: {op}::KERNELS, cases: {op}::cases }},\n"));
    }
    text.push_str("];\n");
    for shader in stems(&shader_folder, ".wgsl") {
        let named = sources.contains(&format!("shader!(\"{shader}\")"));
        assert!(named, "shaders/{shader}.wgsl is an orphan: nothing in src/ops says shader!(\"{shader}\")");
    }
    fs::write(Path::new(&out).join("ops.rs"), text).expect("OUT_DIR is writable");
    let methods = methods(&Path::new(&root).join("src/methods"));
    fs::write(Path::new(&out).join("methods.rs"), methods).expect("OUT_DIR is writable");
    let formats = formats(&Path::new(&root).join("src/data/formats"));
    fs::write(Path::new(&out).join("formats.rs"), formats).expect("OUT_DIR is writable");
    let library = texts("LIBRARY", &shader_folder.join("lib"), ".wgsl");
    fs::write(Path::new(&out).join("shader_library.rs"), library).expect("OUT_DIR is writable");
    let manifests = texts("MANIFESTS", &Path::new(&root).join("datasets"), ".toml");
    fs::write(Path::new(&out).join("manifests.rs"), manifests).expect("OUT_DIR is writable");
}

/// Every method, which is a file beside its preset.
fn methods(folder: &Path) -> String {
    let names = stems(folder, ".toml");
    let list: String = names.iter().map(|name| format!("{name}::INFO, ")).collect();
    let modules = modules(folder, &names);
    format!("{modules}\n/// All methods, in alphabetical order.\npub const METHODS: &[MethodInfo] = &[{list}];\n")
}

/// Every file of formats.
fn formats(folder: &Path) -> String {
    let names = siblings(folder);
    let list: String = names.iter().map(|name| format!("{name}::FORMATS, ")).collect();
    let modules = modules(folder, &names);
    format!("{modules}\n/// The formats of each file.\nconst FORMATS: &[&[FormatInfo]] = &[{list}];\n")
}

/// Declares the files of a folder as modules.
fn modules(folder: &Path, names: &[String]) -> String {
    let module = |name: &String| {
        let file = folder.join(name).with_extension("rs");
        format!("#[path = {:?}]\npub mod {name};\n", file.display().to_string())
    };
    names.iter().map(module).collect()
}

/// A constant of the files of a folder: the stem of each, and its text.
fn texts(name: &str, folder: &Path, ending: &str) -> String {
    let mut text = format!("const {name}: &[(&str, &str)] = &[\n");
    for stem in stems(folder, ending) {
        let file = folder.join(format!("{stem}{ending}"));
        println!("cargo:rerun-if-changed={}", file.display());
        text.push_str(&format!("    ({stem:?}, include_str!({:?})),\n", file.display().to_string()));
    }
    text + "];\n"
}
