//! Methods of lists through the command line: from a log with its schema to AUC.

mod common;

use common::Workplace;
use serde_json::Value;

const SCHEMA: &str = r#"
user = "user"
items = "items"
flags = "clicks"
length = 4
fields = [
    { name = "likes", of = "user", column = "likes" },
    { name = "item", of = "item", column = "items", each = true },
    { name = "colour", of = "item", column = "colours", each = true },
    { name = "position", of = "context", derive = "position" },
]
"#;

/// Users click the items of the colour that they like.
fn log() -> String {
    let mut rows = "user\tlikes\titems\tcolours\tclicks\n".to_string();
    for list in 0..300usize {
        let likes = list % 4;
        let items: Vec<usize> = (0..4).map(|place| (list * 5 + place * 3 + list / 7) % 23).collect();
        let column =
            |of: &dyn Fn(usize) -> usize| items.iter().map(|i| of(*i).to_string()).collect::<Vec<_>>().join("|");
        let flags = column(&|item| usize::from(item % 4 == likes));
        rows += &format!("u{}\t{likes}\t{}\t{}\t{flags}\n", list % 50, column(&|i| i), column(&|i| i % 4));
    }
    rows
}

fn place() -> Workplace {
    let place = Workplace::empty();
    place.file("shown.tsv", log());
    place.file("shown.toml", SCHEMA);
    place
}

const LOG: [&str; 6] = ["--dataset", "shown.tsv", "--schema", "shown.toml", "--device", "cpu"];

/// Of a row of `gpurec bench serve --json`.
fn parameter_bytes(row: &Value) -> u64 {
    row["service"]["parameter_bytes"].as_u64().unwrap()
}

#[test]
fn a_click_model_learns_what_users_like_and_is_judged_by_auc() {
    let place = place();
    let run = |method: &str, out: &str, more: &[&str]| {
        let command = [&["run", "--method", method, "--out", out, "--set", "batch_size=16"][..], &LOG, more].concat();
        place.succeeds(&command)
    };
    let text = run("deepfm", "deep", &["--set", "learning_rate=0.02", "--set", "dim=8", "--epochs", "15"]);
    for part in ["300 lists of 4", "AUC", "GAUC", "batches of 16 lists", "The first lists train"] {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
    let result: Value = place.json("deep/result.json");
    let auc = result["test_impressions"]["auc"].as_f64().unwrap();
    assert!(auc > 0.9, "the colour decides: {auc}");
    assert!(place.path("deep/scores.safetensors").exists() && place.text("deep/report.html").contains("<th>GAUC</th>"));
    let page = place.text("deep/report.html");
    assert!(page.contains("The first 189 lists train") && page.contains("300 lists of 4"), "{page}");
    assert!(!page.contains("HR cannot exceed") && !page.contains("class=\"published\""), "{page}");
    let eval = place.succeeds(&[&["eval", "--checkpoint", "deep"][..], &LOG[4..]].concat());
    assert!(eval.contains(&format!("{auc:.4}")), "{eval}");

    let text = run("drl-rec", "drl", &["--epochs", "1", "--set", "candidates=6", "--seeds", "2"]);
    assert!(text.contains("over 2 seeds") && text.contains("GAUC"), "{text}");
    let deciles = place.json("drl/seed1/result.json")["calibration"]["deciles"].as_array().unwrap().clone();
    let impressions: u64 = deciles.iter().map(|decile| decile["count"].as_u64().unwrap()).sum();
    assert_eq!((deciles.len(), impressions), (10, 90 * 4), "values of all test impressions, and what followed them");
    assert!(place.text("drl/seed1/report.html").contains("<th>tenth 10</th>") && !page.contains("<th>tenth 10</th>"));
    let eval = place.succeeds(&[&["eval", "--checkpoint", "drl/seed1"][..], &LOG[4..]].concat());
    assert!(eval.contains("Scores are values: R2 ") && eval.contains("discounted by 0.4;"), "{eval}");
    place.succeeds(&[&["run", "--method", "pop", "--out", "pop"][..], &LOG].concat());
    let report = place.succeeds(&["report", "deep", "drl", "pop"]);
    for part in ["| GAUC |\n", &format!("| impressions | {auc:.4} |"), " ± ", "| pop | Popularity |", "| uni99 |"] {
        assert!(report.contains(part), "`{part}` is not in:\n{report}");
    }
    let serve = ["bench", "serve", "--candidates", "20", "--device", "cpu", "--quick", "--checkpoint"];
    let text = place.succeeds(&[&serve[..], &["drl/seed1", "--json", "serve.json"]].concat());
    assert!(text.contains("20 candidates after 2 of 4") && text.contains("student / teacher: "), "{text}");
    let served: Vec<u64> =
        place.json("serve.json")["results"].as_array().unwrap().iter().map(parameter_bytes).collect();
    assert!(served[0] > served[1], "the student is smaller: {served:?}");
    assert!(!place.succeeds(&[&serve[..], &["deep"]].concat()).contains("student / teacher"));
    place.is_refused(&[&serve[..], &["pop"]].concat(), &["pop holds pop, which is no model of lists"]);
    place.is_refused(&["bench", "serve"], &["--checkpoint <PATH>"]);
    let beside = place.succeeds(&["compare", "deep", "drl"]);
    for part in ["drl, mean of 2 seeds", "A is better than B: AUC ", "│ GAUC ", "The verdict is about AUC"] {
        assert!(beside.contains(part), "`{part}` is not in:\n{beside}");
    }
    let json: Value = serde_json::from_str(&place.succeeds(&["compare", "deep", "deep", "--json"])).unwrap();
    assert_eq!((json["primary"].as_str(), json["metrics"][1]["difference"].as_f64()), (Some("auc"), Some(0.0)));
    place.is_refused(&["compare", "pop", "deep"], &["deep holds scores of lists, pop ranks of items"]);
    place.is_refused(&["compare", "deep", "drl", "--protocol", "uni99"], &["leave --protocol away"]);
    place.is_refused(
        &["recommend", "--checkpoint", "deep", "--history", "1", "--device", "cpu"],
        &["what is shown in a list"],
    );
}

#[test]
fn methods_with_different_metrics_share_the_table_of_a_sweep() {
    let place = place();
    let cells =
        "[[variant]]\nname = 'pop'\nmethod = 'pop'\n[[variant]]\nname = 'fm'\nset = { epochs = 1, batch_size = 16 }\n";
    place.file("sweep.toml", format!("method = 'fm'\ndataset = 'shown.tsv'\n{cells}"));
    let sweep = ["sweep", "--config", "sweep.toml", "--schema", "shown.toml", "--device", "cpu", "--out", "sweep"];
    let text = place.succeeds(&sweep);
    assert!(["HR@10", "GAUC", "impressions", "history kept"].iter().all(|part| text.contains(part)), "{text}");
    let mut table = csv::Reader::from_path(place.path("sweep/table.csv")).unwrap();
    let header = table.headers().unwrap().clone();
    let records: Vec<csv::StringRecord> = table.records().map(Result::unwrap).collect();
    let cell = |record: &csv::StringRecord, name: &str| {
        record[header.iter().position(|column| column == name).unwrap()].to_string()
    };
    let of = |name: &str| records.iter().filter(|record| cell(record, "cell") == name).collect::<Vec<_>>();
    assert_eq!((of("pop").len(), of("fm").len()), (3, 1), "{records:?}");
    assert!(cell(of("pop")[0], "auc").is_empty() && cell(of("fm")[0], "ndcg@10").is_empty());
    let auc = place.json("sweep/fm/seed1/result.json")["test_impressions"]["auc"].as_f64();
    assert_eq!(cell(of("fm")[0], "auc").parse().ok(), auc);
    assert!(place.text("sweep/table.md").contains("| fm | impressions | - |"));
}

#[test]
fn methods_of_lists_and_of_sequences_say_what_they_want() {
    let place = place();
    place.is_refused(&["run", "--method", "fm", "--device", "cpu"], &["kuairec is no log of lists", "--schema"]);
    let command = [&["run", "--method", "fm", "--split", "leave-one-out"][..], &LOG].concat();
    place.is_refused(&command, &["whose split is said by its schema", "leave --split away"]);
    let found = place.succeeds(&["data", "check", "shown.tsv", "--schema", "shown.toml"]);
    for part in ["300 lists of 4", "189, 21, 90", "likes (5)", "0 shorter lists", "as sequences"] {
        assert!(found.contains(part), "`{part}` is not in:\n{found}");
    }
    // The clicks are sequences too.
    let command = [&["run", "--method", "pop", "--out", "pop"][..], &LOG].concat();
    assert!(place.succeeds(&command).contains("HR@10"));
    place.file("bad.toml", SCHEMA.replace("length = 4", "length = 9"));
    let command = ["run", "--method", "fm", "--dataset", "shown.tsv", "--schema", "bad.toml", "--device", "cpu"];
    place.is_refused(&command, &["hold no click"]);
}

#[test]
fn a_run_of_lists_that_was_killed_goes_on_to_the_same_figures() {
    let place = place();
    let command = |out: &'static str| {
        let own = [
            "run",
            "--method",
            "drl-rec",
            "--epochs",
            "6",
            "--set",
            "candidates=4",
            "--set",
            "patience=50",
            "--out",
            out,
        ];
        [&own[..], &LOG].concat()
    };
    place.succeeds(&command("whole"));
    place.is_killed_at("killed/checkpoint/latest.safetensors", &command("killed"));
    place.succeeds(&[&command("killed")[..], &["--resume"]].concat());
    let bytes = |file: &str| std::fs::read(place.path(file)).unwrap();
    for file in ["checkpoint/latest.safetensors", "checkpoint/best.safetensors", "scores.safetensors"] {
        assert!(bytes(&format!("killed/{file}")) == bytes(&format!("whole/{file}")), "{file} differs");
    }
}

#[test]
fn the_sweeps_of_drl_rec_name_keys_that_exist() {
    let place = place();
    for (name, count) in [("drl-rec", 18), ("drl-rec-compression", 4), ("drl-rec-kept", 4)] {
        let file = format!("{}/docs/sweeps/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        let plan = place.succeeds(&[&["sweep", "--config", &file, "--dry-run"][..], &LOG].concat());
        assert_eq!(plan.matches(" 0 of ").count(), count, "{plan}");
    }
}
