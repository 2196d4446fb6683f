//! Every kernel once through a browser's WGSL compiler, which knows rules that naga does not check: it rejects barriers
//! in non-uniform control flow. Skipped where no Chromium is installed; `GPUREC_CHROMIUM` names another binary.

use gpurec::ops::OP_FILES;
use gpurec::verify::{Checked, Failure, Outcome, portability};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

/// The browser, where there is one.
pub fn chromium() -> Option<PathBuf> {
    let named = std::env::var_os("GPUREC_CHROMIUM").map(PathBuf::from);
    let usual = ["chromium", "chromium-browser", "google-chrome"].iter();
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&on_path).collect();
    named.or_else(|| usual.flat_map(|name| folders.iter().map(move |f| f.join(name))).find(|path| path.is_file()))
}

/// Compiles all kernels in one page and reads what the compiler said.
pub fn check() -> Checked {
    let mut kernels = BTreeMap::new();
    for file in OP_FILES {
        for key in portability::kernels(&(file.cases)())? {
            kernels.insert(key.label(), key.wgsl());
        }
    }
    let messages = compile(&kernels)?;
    match messages.as_slice() {
        [] => Ok(Outcome::default()),
        messages => Err(Failure(messages.join("\n"))),
    }
}

/// A kernel that naga accepts and a browser must not.
pub fn rejects_a_barrier_under_a_branch() -> Checked {
    let wrong = "@group(0) @binding(0) var<storage, read> x: array<u32>;\n\
                 @compute @workgroup_size(64) fn main(@builtin(local_invocation_index) lane: u32) {\n\
                 if (x[lane] > 3u) { workgroupBarrier(); } }";
    let messages = compile(&BTreeMap::from([("wrong".to_string(), wrong.to_string())]))?;
    if messages.is_empty() { Err(Failure("the browser accepted it".into())) } else { Ok(Outcome::default()) }
}

const PAGE: &str = r#"<!doctype html><pre id="out">waiting</pre><script>
const kernels = KERNELS;
(async () => {
  const adapter = await navigator.gpu?.requestAdapter();
  if (!adapter) { document.getElementById('out').textContent = 'no adapter'; return; }
  const device = await adapter.requestDevice();
  const errors = [];
  for (const [name, code] of Object.entries(kernels)) {
    device.pushErrorScope('validation');
    const info = await device.createShaderModule({ code }).getCompilationInfo();
    await device.popErrorScope();
    for (const m of info.messages) if (m.type === 'error') errors.push(name + ':' + m.lineNum + ': ' + m.message);
  }
  document.getElementById('out').textContent = 'compiled ' + Object.keys(kernels).length + '\n' + errors.join('\n');
})().catch(e => document.getElementById('out').textContent = 'failed: ' + e);
</script>"#;

fn compile(kernels: &BTreeMap<String, String>) -> Result<Vec<String>, Failure> {
    let failed = |e: std::io::Error| Failure(format!("the browser could not be run: {e}"));
    let folder = tempfile::tempdir().map_err(failed)?;
    let page = folder.path().join("kernels.html");
    let json = serde_json::to_string(kernels).expect("strings serialise").replace("</", "<\\/");
    std::fs::write(&page, PAGE.replace("KERNELS", &json)).map_err(failed)?;
    let browser = chromium().ok_or_else(|| Failure("no Chromium was found".into()))?;
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"])
        .args(["--disable-component-update", "--disable-sync", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"])
        .args(["--virtual-time-budget=60000", "--timeout=60000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .map_err(failed)?;
    let dom = String::from_utf8_lossy(&output.stdout).into_owned();
    let text = dom.split("<pre id=\"out\">").nth(1).and_then(|rest| rest.split("</pre>").next()).unwrap_or("");
    let mut lines = text.lines();
    match lines.next() {
        Some(first) if first == format!("compiled {}", kernels.len()) => {
            Ok(lines.filter(|line| !line.is_empty()).map(String::from).collect())
        }
        other => Err(Failure(format!("the browser compiled nothing: {}", other.unwrap_or("an empty page")))),
    }
}
