//! Whatever ends a run, `--resume` leads to the bytes of a run that nothing ended.

#![cfg(unix)]

use gpurec::engine::rng::{RngState, Site};
use gpurec::train::checkpoint::Checkpoint;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A run with everything that training keeps: two optimizers, masks, augmentation, similarities that change every epoch.
const RUN: &str = "run --method lma4rec --dataset walks.txt --device cpu --quiet --epochs 12 --set patience=100 --set dim=16 \
                   --set inner_dim=16 --set max_len=8 --set batch_size=8 --set augment.similarity=hybrid --set augment.warm_up=1";

struct Workplace(tempfile::TempDir);

impl Workplace {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let walk = |user: usize| -> String {
            let items = (0..9).map(|place| format!(" {}", 1 + (5 * user + place * (1 + user % 3)) % 40));
            format!("{user}{}\n", items.collect::<String>())
        };
        fs::write(folder.path().join("walks.txt"), (0..300).map(walk).collect::<String>()).unwrap();
        Workplace(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, out: &str) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("gpurec"));
        command.current_dir(self.0.path()).args(RUN.split_whitespace()).args(["--out", out]);
        // With a checkpoint or without: a kill may come before the first one.
        if self.path(out).exists() {
            command.arg("--resume");
        }
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// Runs to the end; the two checkpoints. The time of a run is that of all its epochs, whichever process did them.
    fn finish(&self, out: &str) -> [Vec<u8>; 2] {
        let output = self.command(out).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let seconds =
            |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap()["seconds"].as_f64().unwrap();
        let [result, metrics] =
            ["result.json", "metrics.jsonl"].map(|file| fs::read_to_string(self.path(out).join(file)).unwrap());
        assert!(seconds(&result) >= metrics.lines().map(seconds).sum::<f64>());
        ["latest", "best"].map(|file| fs::read(self.path(out).join(format!("checkpoint/{file}.safetensors"))).unwrap())
    }

    /// The same, and how long it took.
    fn finish_timed(&self, out: &str) -> ([Vec<u8>; 2], Duration) {
        let started = Instant::now();
        (self.finish(out), started.elapsed())
    }

    fn spawn(&self, out: &str) -> Child {
        self.command(out).spawn().unwrap()
    }
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap().success());
}

/// Lets it run for a while; whether it ended by itself.
fn ends_within(child: &mut Child, time: Duration) -> bool {
    let started = Instant::now();
    while started.elapsed() < time {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    false
}

#[test]
fn ten_kills_at_random_moments_change_no_byte() {
    let place = Workplace::new();
    let (whole, length) = place.finish_timed("whole");
    let mut moments = RngState { seed: 7, step: 0 }.stream(Site(1), 0);
    let mut kills = 0;
    while kills < 10 {
        let mut child = place.spawn("killed");
        // Moments over the first half, so that later attempts have something left to do.
        if ends_within(&mut child, length.mul_f32(0.5 * moments.uniform())) {
            fs::remove_dir_all(place.path("killed")).unwrap();
        } else {
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
        }
    }
    assert!(place.finish("killed") == whole, "the checkpoints differ");
    let files = fs::read_dir(place.path("killed/checkpoint")).unwrap().count();
    assert_eq!(files, 2, "what a kill left half-written is gone");
}

/// A student with three teachers, each a stage of its own.
const STAGES: &str = "run --method ssi --dataset walks.txt --device cpu --epochs 3 --set patience=100 --set batch_size=16 \
                      --set student=sasrec --set student_settings=[\"dim=8\",\"inner_dim=8\",\"max_len=8\"] \
                      --set teacher_settings=[\"dim=8\",\"inner_dim=8\",\"max_len=8\",\"epochs=3\",\"batch_size=16\"]";

#[test]
fn a_run_in_stages_goes_on_in_whichever_stage_it_was_killed() {
    let place = Workplace::new();
    let command = |out: &str| {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("gpurec"));
        command.current_dir(place.0.path()).args(STAGES.split_whitespace()).args(["--out", out]);
        if place.path(out).exists() {
            command.arg("--resume");
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let finish = |out: &str| {
        let output = command(out).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let files = |out: &str| {
        let stages = ["cloze", "temporal", "persona", "global"].map(|stage| format!("stages/{stage}/checkpoint"));
        let checkpoints = stages.into_iter().chain(["checkpoint".into()]);
        let checkpoints = checkpoints.map(|folder| format!("{folder}/best.safetensors"));
        let answers = ["temporal", "persona", "global"].map(|stage| format!("stages/{stage}/queries.safetensors"));
        checkpoints.chain(answers).map(|file| fs::read(place.path(out).join(file)).unwrap()).collect::<Vec<_>>()
    };
    let text = finish("whole");
    for part in ["stage 1 of 5: cloze", "stage 4 of 5: global", "asking temporal about", "learning from the teachers"] {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
    let log = fs::read_to_string(place.path("whole/metrics.jsonl")).unwrap();
    for metric in ["loss_student", "kl_persona", "mse_global", "lambda_temporal"] {
        assert!(log.contains(metric), "{log}");
    }
    // Killed as soon as these files are there: before a stage is finished, within the next one, while the student learns.
    for file in [
        "stages/cloze/checkpoint/latest.safetensors",
        "stages/persona/metrics.jsonl",
        "stages/temporal/queries.safetensors",
        "checkpoint/latest.safetensors",
    ] {
        let mut child = command("killed").spawn().unwrap();
        while !place.path("killed").join(file).exists() {
            assert!(child.try_wait().unwrap().is_none(), "the run was over before {file} was there");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    finish("killed");
    assert!(files("killed") == files("whole"), "the files differ");
    // Side by side, the teachers are the same. Where one of them fails, nothing of the others is lost.
    let beside = ["--stages-on", "cpu", "--stages-on", "cpu"];
    fs::create_dir_all(place.path("beside/stages")).unwrap();
    fs::write(place.path("beside/stages/persona"), "in the way").unwrap();
    let output = command("beside").args(beside).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("persona") && !said.contains("stopped as asked"), "{said}");
    fs::remove_file(place.path("beside/stages/persona")).unwrap();
    let output = command("beside").args(beside).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("\npersona  epoch   3  loss "), "{text}");
    assert!(files("beside") == files("whole"), "the files differ");
    // A stage is a run as any other, which another student can learn from.
    let taught = ["--teacher", "whole/stages/global", "--out", "again", "--quiet"];
    let output = command("again").args(&taught[..2]).args(&taught[4..]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!place.path("again/stages/cloze").exists());
}

#[test]
fn ctrl_c_ends_with_a_checkpoint_within_the_epoch() {
    let place = Workplace::new();
    let (whole, length) = place.finish_timed("whole");
    let mut within_an_epoch = 0;
    for attempt in 1..=6 {
        let mut child = place.spawn("stopped");
        if !ends_within(&mut child, length.mul_f32(0.12 * attempt as f32)) {
            signal(&child, "INT");
        }
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            break;
        }
        assert_eq!(output.status.code(), Some(130), "{said}");
        let latest = place.path("stopped/checkpoint/latest.safetensors");
        if latest.exists() {
            assert!(said.contains("stopped as asked") && said.contains("--resume"), "{said}");
            let partial = Checkpoint::read(&latest).unwrap().progress.partial;
            within_an_epoch += usize::from(partial.batches > 0);
        }
    }
    assert!(within_an_epoch > 0, "no signal came within an epoch");
    assert!(place.finish("stopped") == whole, "the checkpoints differ");
}

/// As `nohup` starts it, a run outlives the terminal.
#[test]
fn a_signal_that_the_parent_ignores_stops_nothing() {
    let place = Workplace::new();
    let (whole, length) = place.finish_timed("whole");
    let program = place.command("held");
    let mut child = Command::new("sh")
        .current_dir(place.0.path())
        .args(["-c", "trap '' HUP; exec \"$0\" \"$@\""])
        .arg(program.get_program())
        .args(program.get_args())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    assert!(!ends_within(&mut child, length / 2), "the run was over before the signal");
    signal(&child, "HUP");
    assert!(child.wait().unwrap().success());
    assert!(place.finish("held") == whole, "the checkpoints differ");
}

#[test]
fn a_full_disk_is_reported_and_loses_nothing() {
    let place = Workplace::new();
    let whole = place.finish("whole");
    // Files cannot grow beyond 8 KiB: the first checkpoint fails as on a full disk.
    let program = place.command("full");
    let arguments: Vec<String> = program.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    let limited = format!("trap '' XFSZ; ulimit -f 8; exec \"$0\" {}", arguments.join(" "));
    let output = Command::new("bash")
        .current_dir(place.0.path())
        .args(["-c", &limited])
        .arg(program.get_program())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("cannot write full/checkpoint/") && said.contains("help: "), "{said}");
    assert!(!place.path("full").exists(), "nothing half-written is left");
    assert!(place.finish("full") == whole);
}
