//! A folder to run the program in, and what every test says of it.

#![allow(dead_code, reason = "each test program uses a part")]

use assert_cmd::Command;
use std::fs;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A folder for one test.
pub struct Workplace {
    pub folder: TempDir,
}

impl Workplace {
    pub fn empty() -> Self {
        Workplace { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file; its whole path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), content).unwrap();
        self.path(name).display().to_string()
    }

    pub fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    pub fn json(&self, name: &str) -> serde_json::Value {
        serde_json::from_str(&self.text(name)).unwrap()
    }

    /// Runs in this folder.
    pub fn gpurec(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("gpurec"));
        command.current_dir(self.folder.path()).args(arguments).timeout(Duration::from_secs(120));
        command.output().unwrap()
    }

    /// What is printed on stdout.
    pub fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.gpurec(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs until a file is there, and kills the process.
    pub fn is_killed_at(&self, file: &str, arguments: &[&str]) {
        let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin!("gpurec"))
            .current_dir(self.folder.path())
            .args(arguments)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while !self.path(file).exists() {
            assert!(started.elapsed() < Duration::from_secs(60), "no {file} after a minute");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// A mistake of the user's: exit code 2, one message that has all `parts` and a way out, and nothing left behind.
    pub fn is_refused(&self, arguments: &[&str], parts: &[&str]) {
        let before = fs::read_dir(self.folder.path()).unwrap().count();
        let output = self.gpurec(arguments);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(!message.contains("panicked"), "{message}");
        assert!(message.contains("help: ") || message.contains("--help"), "{arguments:?}: no way out in\n{message}");
        for part in [&["error: "], parts].concat() {
            assert!(message.contains(part), "{arguments:?}: `{part}` is not in:\n{message}");
        }
        assert_eq!(fs::read_dir(self.folder.path()).unwrap().count(), before, "{arguments:?} left something behind");
    }
}
