//! The browser of the tests that need one.

use std::path::PathBuf;

/// Chromium, where there is one; `GPUREC_CHROMIUM` names another binary.
pub fn chromium() -> Option<PathBuf> {
    let named = std::env::var_os("GPUREC_CHROMIUM").map(PathBuf::from);
    let usual = ["chromium", "chromium-browser", "google-chrome"].iter();
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&on_path).collect();
    named.or_else(|| usual.flat_map(|name| folders.iter().map(move |f| f.join(name))).find(|path| path.is_file()))
}
