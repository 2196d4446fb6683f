//! Every kernel once through a browser's WGSL compiler, which knows rules that naga does not check: it rejects barriers
//! in non-uniform control flow. Skipped where no Chromium is installed.

use crate::chromium::chromium;
use gpurec::ops::OP_FILES;
use gpurec::verify::{Checked, Failure, Outcome, portability};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

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

/// Sends what the compiler says of each kernel to where the page came from.
const PAGE: &str = r#"<!doctype html><script>
const kernels = KERNELS;
(async () => {
  const adapter = await navigator.gpu?.requestAdapter();
  if (!adapter) throw 'no adapter';
  const device = await adapter.requestDevice();
  const errors = [];
  for (const [name, code] of Object.entries(kernels)) {
    device.pushErrorScope('validation');
    const info = await device.createShaderModule({ code }).getCompilationInfo();
    await device.popErrorScope();
    for (const m of info.messages) if (m.type === 'error') errors.push(name + ':' + m.lineNum + ': ' + m.message);
  }
  return ['compiled ' + Object.keys(kernels).length, ...errors];
})().catch(e => ['failed: ' + e]).then(lines => fetch('/result', { method: 'POST', body: lines.join('\n') }));
</script>"#;

fn compile(kernels: &BTreeMap<String, String>) -> Result<Vec<String>, Failure> {
    let failed = |e: std::io::Error| Failure(format!("the browser could not be run: {e}"));
    let json = serde_json::to_string(kernels).expect("strings serialise").replace("</", "<\\/");
    let server = TcpListener::bind("127.0.0.1:0").map_err(failed)?;
    let browser = chromium().ok_or_else(|| Failure("no Chromium was found".into()))?;
    let profile = tempfile::tempdir().map_err(failed)?;
    let mut browser = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"])
        .args([
            "--disable-component-update",
            "--disable-sync",
            "--enable-unsafe-webgpu",
            "--use-webgpu-adapter=swiftshader",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("http://{}/", server.local_addr().map_err(failed)?))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let answer = serve(&server, &PAGE.replace("KERNELS", &json));
    let _ = browser.kill();
    let _ = browser.wait();
    let answer = answer.map_err(failed)?;
    let mut lines = answer.lines();
    match lines.next() {
        Some(first) if first == format!("compiled {}", kernels.len()) => Ok(lines.map(String::from).collect()),
        other => Err(Failure(format!("the browser compiled nothing: {}", other.unwrap_or("no answer")))),
    }
}

/// Serves the page to whoever asks until the result is posted, for two minutes at most; the result.
fn serve(server: &TcpListener, page: &str) -> std::io::Result<String> {
    server.set_nonblocking(true)?;
    let deadline = Instant::now() + Duration::from_secs(120);
    while Instant::now() < deadline {
        let Ok((stream, _)) = server.accept() else {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut reader = BufReader::new(&stream);
        let (mut request, mut header, mut length) = (String::new(), String::new(), 0);
        reader.read_line(&mut request)?;
        while reader.read_line(&mut header)? > 2 {
            if let Some(value) = header.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            header.clear();
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let content = if request.starts_with("GET / ") { page } else { "" };
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nConnection: close\r\nContent-Length: ";
        (&stream).write_all(format!("{head}{}\r\n\r\n{content}", content.len()).as_bytes())?;
        if request.starts_with("POST /result") {
            return Ok(String::from_utf8_lossy(&body).into_owned());
        }
    }
    Ok(String::new())
}
