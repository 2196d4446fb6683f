//! The command line as a user meets it: what is printed, what is left on disk, and with which exit code.

mod common;

use assert_cmd::Command;
use clap::CommandFactory;
use common::Workplace;
use gpurec::cli::Cli;
use gpurec::data;
use gpurec::engine::exec::gpu::device::adapters;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

impl Workplace {
    fn small_data(&self) -> String {
        let data = data::resolve("kuairec", &data::ReadOptions::default()).unwrap().head(300);
        let mut text = String::new();
        for (user, sequence) in data.users.iter().zip(data.sequences()) {
            let items: Vec<&str> = sequence.iter().map(|&item| data.items[item as usize].as_str()).collect();
            text += &format!("{user} {}\n", items.join(" "));
        }
        self.file("small.txt", text)
    }

    fn data_is_refused(&self, content: impl AsRef<[u8]>, parts: &[&str]) {
        let path = self.file("bad.txt", content);
        self.is_refused(
            &["run", "--method", "pop", "--dataset", &path, "--out", "out"],
            &[&["help: "], parts].concat(),
        );
    }
}

/// A SASRec that trains in a moment.
const TINY: [&str; 15] = [
    "run",
    "--method",
    "sasrec",
    "--device",
    "cpu",
    "--seed",
    "3",
    "--set",
    "dim=16",
    "--set",
    "inner_dim=32",
    "--set",
    "batch_size=64",
    "--set",
    "patience=1000",
];

fn tiny<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&TINY[..], more].concat()
}

fn gzipped(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The words of a command, and those of all commands below it.
fn commands(command: &clap::Command, words: Vec<String>) -> Vec<Vec<String>> {
    let of = |below: &clap::Command| commands(below, [words.clone(), vec![below.get_name().into()]].concat());
    let below: Vec<Vec<String>> = command.get_subcommands().flat_map(of).collect();
    [vec![words.clone()], below].concat()
}

#[test]
fn help_of_every_command_has_examples() {
    let place = Workplace::empty();
    let all = commands(&Cli::command(), Vec::new());
    assert!(all.len() > 15, "{all:?}");
    for words in all {
        let words: Vec<&str> = words.iter().map(String::as_str).chain(["--help"]).collect();
        let help = place.succeeds(&words);
        assert!(help.contains("Examples:\n  gpurec "), "{words:?}: {help}");
    }
    assert!(place.succeeds(&["--version"]).starts_with("gpurec "));
}

#[test]
fn options_of_reading_tables_stand_apart_from_all_others() {
    let help = Workplace::empty().succeeds(&["run", "--help"]);
    let place = |part: &str| help.find(part).unwrap_or_else(|| panic!("`{part}` is not in:\n{help}"));
    let heading = place("Reading tables:");
    assert!(["--out <DIR>", "--device <DEVICE>", "--quiet"].iter().all(|option| place(option) < heading), "{help}");
    assert!(["--user-col <COLUMN>", "--split <RULE>"].iter().all(|option| place(option) > heading), "{help}");
}

#[test]
fn lists_name_what_there_is() {
    let place = Workplace::empty();
    assert!(place.succeeds(&["devices"]).contains("auto: "));
    assert!(place.succeeds(&["methods"]).contains("lma4rec"));
    assert!(place.succeeds(&["methods", "sasrec"]).contains("learning_rate"));
    assert!(place.succeeds(&["data", "list"]).contains("kuairec"));
    assert!(place.succeeds(&["data", "show", "kuairec"]).contains("9,209 users, 2,233 items, 55,346 interactions"));
    place.file("semi colon.csv", "user;item\nann;1\nann;2\nann;3\n");
    let shown = place.succeeds(&["data", "show", "semi colon.csv", "--separator", ";"]);
    assert!(shown.contains("`gpurec data check 'semi colon.csv' --separator ';'` says"), "{shown}");
}

#[test]
fn bad_data_is_refused_with_its_place_and_a_remedy() {
    let place = Workplace::empty();
    place.data_is_refused("", &["bad.txt:1:1: ", "no interactions"]);
    place.data_is_refused("1 2 3 4\n2 3 x7 5\n", &["bad.txt:2:5: ", "`x7` is not a number"]);
    place.data_is_refused("1 2 3 4\n2 3 4\n7 3\n", &["fewer than 3 events", "`2`", "data prepare"]);
    place.data_is_refused("1 2 0 4\n", &["bad.txt:1:5: ", "item id 0 "]);
    place.data_is_refused("1 2 3 2147483649\n", &["bad.txt:1:7: ", "2147483649"]);
    let whole = gzipped("1 2 3 4\n2 3 4 5\n".repeat(100).as_bytes());
    place.data_is_refused(&whole[..whole.len() / 2], &["bad.txt:", "gzip data ends here"]);
}

#[test]
fn unknown_names_are_refused_with_the_nearest_one() {
    let place = Workplace::empty();
    place.is_refused(&["run", "--method", "sasrek", "--out", "out"], &["`sasrek`", "did you mean `sasrec`?"]);
    place.is_refused(&["run", "--dataset", "kuairek", "--out", "out"], &["`kuairek`", "did you mean `kuairec`?"]);
    place.is_refused(&["run", "--set", "learning_rte=0.1", "--out", "out"], &["did you mean `learning_rate`?"]);
    place.is_refused(&["run", "--set", "dim", "--out", "out"], &["`dim` is not an assignment", "help: "]);
    place.is_refused(&["run", "--set", "dim=much", "--out", "out"], &["`dim`", "help: "]);
    place.is_refused(&["run", "--set", "mode=papers", "--out", "out"], &["did you mean `paper`?"]);
    place.is_refused(&["run", "--dataset", "no/such/file.txt", "--out", "out"], &["no/such/file.txt"]);
    place.is_refused(&["run", "--config", "none.toml", "--out", "out"], &["none.toml"]);
    let config = place.file("bad.toml", "dim = 64\nheads = = 2\n");
    place.is_refused(&["run", "--config", &config, "--out", "out"], &["bad.toml:2:", "help: "]);
    place.is_refused(&["methods", "sasrek"], &["did you mean `sasrec`?"]);
    place.is_refused(&["verify", "--op", "atention"], &["did you mean `attention`?"]);
    place.is_refused(&["eval", "--checkpoint", "nowhere"], &["nowhere"]);
    place.is_refused(&["run", "--epochs", "many"], &["--epochs"]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_gpu_that_is_not_there_is_refused() {
    let place = Workplace::empty();
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("gpurec"));
    command.current_dir(place.folder.path()).args(["run", "--device", "gpu", "--out", "out"]);
    let output = command.env("VK_DRIVER_FILES", "/none.json").env("VK_ICD_FILENAMES", "/none.json").output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("no GPU adapter was found") && message.contains("--device cpu"), "{message}");
    assert!(!place.path("out").exists());
    place.is_refused(&["devices", "--device", "x"], &[]);
    place.is_refused(&["verify", "--device", "nosuchadapter"], &["`nosuchadapter`", "gpurec devices"]);
}

#[test]
fn a_batch_beyond_the_limits_of_an_adapter_is_refused() {
    let Some(adapter) = adapters().into_iter().find(|a| a.is_software() && a.max_binding_bytes <= 128 << 20) else {
        println!("skipped: no software adapter with bindings of up to 128 MiB");
        return;
    };
    let place = Workplace::empty();
    let options = ["--set", "inner_dim=4096", "--set", "batch_size=10000"];
    let command = [&["run", "--method", "sasrec", "--out", "out", "--device", &adapter.name][..], &options].concat();
    place.is_refused(&command, &["allows", "batch_size", "--device cpu"]);
}

#[test]
fn popularity_runs_from_end_to_end() {
    let place = Workplace::empty();
    let text = place.succeeds(&["run", "--method", "pop", "--device", "cpu"]);
    for part in
        ["9,209 users", "2,233 parameters", "HR@10", "NDCG@20", "test (history excluded)", "test (history kept)"]
    {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
    let folder = place.path("runs/pop-kuairec-seed1");
    let result: serde_json::Value = serde_json::from_slice(&bytes(&folder.join("result.json"))).unwrap();
    for key in ["method", "dataset", "seed", "device", "epochs", "seconds"] {
        assert!(!result[key].is_null(), "result.json has no `{key}`: {result}");
    }
    for split in ["valid", "test", "test_history_kept", "test_uni99"] {
        for metric in ["hr@5", "hr@10", "hr@20", "ndcg@5", "ndcg@10", "ndcg@20"] {
            assert!(
                result[split][metric].as_f64().is_some_and(|value| (0.0..=1.0).contains(&value)),
                "{split} {metric}"
            );
        }
    }
    assert!(String::from_utf8(bytes(&folder.join("report.html"))).unwrap().contains("<th>HR@5</th>"));

    // The same command again takes another folder, and leaves the first one alone.
    place.succeeds(&["run", "--method", "pop", "--device", "cpu", "--quiet"]);
    assert!(place.path("runs/pop-kuairec-seed1-2/result.json").exists());
    place.is_refused(
        &["run", "--method", "pop", "--out", "runs/pop-kuairec-seed1"],
        &["already holds a run", "--resume"],
    );

    let folder = folder.display().to_string();
    let again = place.succeeds(&["eval", "--checkpoint", &folder, "--device", "cpu"]);
    let row = |text: &str| text.lines().find(|line| line.contains("history excluded")).map(String::from);
    assert_eq!(row(&again), row(&text), "an evaluation repeats the figures of the run");
    let small = place.small_data();
    let part = place.gpurec(&["eval", "--checkpoint", &folder, "--device", "cpu", "--dataset", &small]);
    let [said, told] = [part.stdout, part.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(said.contains("small: 300 users, 2,233 items"), "a part of the items is ranked among all: {said}");
    assert!(told.contains("warning: the model was trained on other events"), "{told}");
}

#[test]
fn an_evaluation_finds_items_by_their_names_and_splits_as_it_is_told() {
    let place = Workplace::empty();
    let rows = |users: &mut dyn Iterator<Item = usize>| {
        let rows = |user: usize| (0..7).map(move |i| format!("u{user},x{}\n", (5 * user + i * (1 + user % 3)) % 40));
        format!("user,item\n{}", users.flat_map(rows).collect::<String>())
    };
    place.file("there.csv", rows(&mut (0..60)));
    place.file("back.csv", rows(&mut (0..60).rev()));
    place.file("more.csv", rows(&mut (0..60)) + "u0,tea\nu1,tea\nu1,cup\n");
    let text = place.succeeds(&["run", "--method", "pop", "--dataset", "there.csv", "--out", "out", "--device", "cpu"]);
    let row = |text: &str| text.lines().find(|line| line.contains("history excluded")).map(String::from);
    let eval = ["eval", "--checkpoint", "out", "--device", "cpu"];
    let back = place.succeeds(&[&eval[..], &["--dataset", "back.csv"]].concat());
    assert_eq!(row(&back), row(&text), "the order of the items is no matter");
    place.is_refused(
        &[&eval[..], &["--dataset", "more.csv"]].concat(),
        &["more has 42 items", "trained with 40; it does not know 2 of them, such as `tea`", "there.csv"],
    );

    let told = |more: &[&str]| {
        let output = place.gpurec(&[&eval[..], more].concat());
        assert!(output.status.success(), "{output:?}");
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap())
    };
    let [said, complaint] = told(&[]);
    assert!(row(&said) == row(&text) && complaint.is_empty(), "{complaint}");
    let [said, complaint] = told(&["--split", "ratio:0.4,0.3,0.3"]);
    assert!(said.contains("The first 40 % of each user's events train"), "{said}");
    assert!(complaint.contains("trained on other events than the training part of there"), "{complaint}");
    place.is_refused(&[&eval[..], &["--item-col", "sku"]].concat(), &["`sku`", "cannot be read", "help: "]);
}

#[test]
fn a_trained_model_recommends_by_the_names_of_the_items() {
    let place = Workplace::empty();
    let data = place.small_data();
    let text = place.succeeds(&tiny(&["--dataset", &data, "--epochs", "2", "--out", "out"]));
    assert!(text.contains("epoch   2  loss "), "{text}");
    for file in ["config.toml", "metrics.jsonl", "result.json", "report.html", "checkpoint/best.safetensors"] {
        assert!(place.path("out").join(file).exists(), "{file} is missing");
    }
    let held = data::read(Path::new(&data), &data::ReadOptions::default()).unwrap();
    let history = format!("{},{}", held.items[3], held.items[8]);
    let recommend = ["recommend", "--checkpoint", "out", "--device", "cpu", "--top-k", "4", "--history"];
    let json = place.succeeds(&[&recommend[..], &[&history, "--json"]].concat());
    let best: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
    assert_eq!(best.len(), 4);
    let scores: Vec<f64> = best.iter().map(|entry| entry["score"].as_f64().unwrap()).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    for entry in &best {
        let item = entry["item"].as_str().unwrap().to_string();
        assert!(held.items.contains(&item) && !history.split(',').any(|seen| seen == item), "{item}");
    }
    assert!(place.succeeds(&[&recommend[..], &[&history]].concat()).contains(best[0]["item"].as_str().unwrap()));
    place.is_refused(&[&recommend[..], &["999999"]].concat(), &["`999999`", "help: ", "nearest"]);
}

#[test]
fn a_model_of_users_ranks_for_the_users_it_knows_and_for_no_others() {
    let place = Workplace::empty();
    let data = place.small_data();
    let run = ["run", "--method", "bpr", "--device", "cpu", "--set", "batch_size=64", "--set", "bias=true"];
    let text = place.succeeds(&[&run[..], &["--dataset", &data, "--epochs", "2", "--out", "out"]].concat());
    let eval = ["eval", "--checkpoint", "out", "--device", "cpu"];
    let again = place.succeeds(&eval);
    let row = |text: &str| text.lines().find(|line| line.contains("history excluded")).map(String::from);
    assert_eq!(row(&again), row(&text), "an evaluation repeats the figures of the run");

    let recommend = ["recommend", "--checkpoint", "out", "--device", "cpu", "--history"];
    let item = data::read(Path::new(&data), &data::ReadOptions::default()).unwrap().items[0].clone();
    place.is_refused(&[&recommend[..], &[&item]].concat(), &["from a history alone", "help: train a method that"]);
    let same = place.file("same.txt", bytes(Path::new(&data)));
    assert_eq!(
        row(&place.succeeds(&[&eval[..], &["--dataset", &same]].concat())),
        row(&text),
        "the file's name is no matter"
    );
    let renamed = String::from_utf8(bytes(Path::new(&data))).unwrap();
    let renamed: String = renamed.lines().map(|line| format!("u{line}\n")).collect();
    let other = place.file("other.txt", renamed.into_bytes());
    place.is_refused(&[&eval[..], &["--dataset", &other]].concat(), &["300 users", "no others", "help: "]);
}

#[test]
fn the_plan_of_a_step_is_printed_and_nothing_is_written() {
    let place = Workplace::empty();
    let data = place.small_data();
    let plan = place.succeeds(&tiny(&["--dataset", &data, "--plan"]));
    assert!(plan.contains("attention") && plan.contains("adam") && plan.contains("MFLOP"), "{plan}");
    assert!(!place.path("runs").exists());
    place.is_refused(&["run", "--method", "pop", "--plan"], &["no step to look at", "help: "]);
}

#[test]
fn the_profile_of_a_step_is_printed_and_nothing_is_written() {
    let place = Workplace::empty();
    let data = place.small_data();
    let profile = place.succeeds(&tiny(&["--dataset", &data, "--profile"]));
    assert!(profile.contains("ms a step") && profile.contains("attention_gradient"), "{profile}");
    assert!(!place.path("runs").exists());
}

#[test]
fn mixed_precision_is_refused_where_there_are_no_matrix_units() {
    let place = Workplace::empty();
    for command in [&["run"][..], &["verify"], &["bench", "linear"]] {
        let arguments = [command, &["--precision", "mixed", "--device", "cpu"]].concat();
        place.is_refused(&arguments, &["--precision mixed", "no matrix units", "help: leave --precision out"]);
    }
}

#[test]
fn bench_measures_one_shape_and_compares_with_an_earlier_file() {
    let place = Workplace::empty();
    let bench = ["bench", "layer-norm", "--rows", "60", "--dim", "8", "--device", "cpu", "--quick"];
    let text = place.succeeds(&[&bench[..], &["--json", "a.json", "--plot", "roof.svg"]].concat());
    assert!(text.contains("rows=60 dim=8") && text.contains("fwd+bwd") && text.contains("ceilings"), "{text}");
    let report: serde_json::Value = serde_json::from_slice(&bytes(&place.path("a.json"))).unwrap();
    let rows = report["results"].as_array().unwrap();
    let directions: Vec<&str> = rows.iter().map(|row| row["direction"].as_str().unwrap()).collect();
    assert_eq!(directions, ["fwd", "fwd+bwd"]);
    let keys = ["median_ms", "min_ms", "p90_ms", "gflops", "gbps", "peak_share", "extra_bytes", "dispatches"];
    assert!(rows.iter().all(|row| keys.iter().all(|key| row[key].is_number()) && row["executor"] == "cpu"), "{report}");
    assert!(rows[0]["median_ms"].as_f64() > Some(0.0) && report["peaks"]["gflops"].as_f64() > Some(0.0));
    assert!(fs::read_to_string(place.path("roof.svg")).unwrap().contains("layer-norm"));

    let beside = |limit: &'static str| [&bench[..], &["--baseline", "a.json", "--fail-above", limit]].concat();
    assert!(place.succeeds(&beside("1e9")).contains("ratio"));
    assert_eq!(place.gpurec(&beside("1e-9")).status.code(), Some(1));
    place.is_refused(&["bench", "layer-norm", "--heads", "2"], &["no size --heads", "help: its sizes: --rows --dim"]);
    place.is_refused(&["bench", "all", "--rows", "2"], &["no one shape", "help: "]);
    place.is_refused(&["bench", "adam", "--baseline", "missing.json"], &["missing.json", "baseline"]);
    place.is_refused(&["bench", "adam", "--set", "dim=8"], &["--set says nothing of `adam`", "`gpurec bench step`"]);
    place.is_refused(&["bench", "all", "--method", "pop"], &["--method says nothing of `all`", "`gpurec bench step`"]);
    place.is_refused(&["bench", "step", "--method", "sasrek", "--device", "cpu"], &["did you mean `sasrec`?"]);
    place.is_refused(&["bench", "denoise", "--set", "dimm=8", "--device", "cpu"], &["did you mean `dim`?"]);
    place.is_refused(&["bench", "step", "--dataset", "kuairek", "--device", "cpu"], &["did you mean `kuairec`?"]);
}

#[test]
fn one_seed_gives_the_same_bytes_whatever_the_threads() {
    let place = Workplace::empty();
    let data = place.small_data();
    let checkpoint = |out: &str, threads: &str| {
        place.succeeds(&tiny(&["--dataset", &data, "--epochs", "2", "--threads", threads, "--out", out, "--quiet"]));
        bytes(&place.path(out).join("checkpoint/latest.safetensors"))
    };
    let first = checkpoint("a", "2");
    assert!(first == checkpoint("b", "2"), "two runs with one seed differ");
    assert!(first == checkpoint("c", "1"), "one thread and two differ");
}

#[test]
fn a_killed_run_continues_to_the_bytes_of_an_uninterrupted_one() {
    let place = Workplace::empty();
    let data = place.small_data();
    let options = |out| tiny(&["--dataset", &data, "--epochs", "40", "--quiet", "--out", out]);
    place.succeeds(&options("whole"));

    place.is_killed_at("killed/checkpoint/latest.safetensors", &options("killed"));
    assert!(!place.path("killed/result.json").exists(), "the run was over before it could be killed");

    place.is_refused(&options("killed"), &["already holds a run", "--resume"]);
    place.succeeds(&[options("killed"), vec!["--resume"]].concat());
    for file in ["checkpoint/latest.safetensors", "checkpoint/best.safetensors"] {
        assert!(bytes(&place.path("whole").join(file)) == bytes(&place.path("killed").join(file)), "{file} differs");
    }
    let lines = |out: &str| bytes(&place.path(out).join("metrics.jsonl")).iter().filter(|&&b| b == b'\n').count();
    assert_eq!((lines("whole"), lines("killed")), (40, 40));
}

/// The similar items of an epoch follow from the embeddings at its start, which a resumed run has too.
#[test]
fn a_run_resumed_after_the_warm_up_of_its_similarities_gives_the_same_bytes() {
    let place = Workplace::empty();
    let data = place.small_data();
    let run = |out: &str, epochs: &str, similarity: &str, more: &[&str]| {
        let mut options = vec!["run", "--method", "coserec", "--device", "cpu", "--quiet", "--dataset", &data];
        let settings = ["dim=8", "inner_dim=16", "max_len=10", "blocks=1", "batch_size=64", "augment.warm_up=1"];
        settings.iter().chain(&[similarity]).for_each(|setting| options.extend(["--set", setting]));
        place.succeeds(&[&options[..], &["--epochs", epochs, "--out", out], more].concat());
        bytes(&place.path(out).join("checkpoint/latest.safetensors"))
    };
    let whole = run("whole", "4", "augment.similarity=hybrid", &[]);
    run("resumed", "2", "augment.similarity=hybrid", &[]);
    assert!(whole == run("resumed", "4", "augment.similarity=hybrid", &["--resume"]), "the resumed run differs");
    assert!(whole != run("offline", "4", "augment.similarity=offline", &[]), "the embeddings had no say");
}

#[test]
fn verify_proves_an_op_and_says_so() {
    let place = Workplace::empty();
    let text = place.succeeds(&["verify", "--device", "cpu", "--op", "scale"]);
    assert!(text.contains("scale") && text.contains("pass") && text.contains("worst share"), "{text}");
    let golden = ["verify", "--device", "cpu", "--op", "scale", "--golden"];
    place.is_refused(&[&golden[..], &["nowhere"]].concat(), &["nowhere"]);
    fs::create_dir(place.path("answers")).unwrap();
    fs::write(place.path("answers/auc.0.safetensors"), "").unwrap();
    place.is_refused(
        &[&golden[..], &["answers"]].concat(),
        &["no golden file of `scale` in answers", "help: it has: auc"],
    );
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin!("gpurec"))
        .args(["methods", "lma4rec"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
