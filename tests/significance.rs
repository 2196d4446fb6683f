//! Comparisons, seeds and sweeps as a user meets them, on a data set of a few dozen users.

mod common;

use common::Workplace;
use serde_json::Value;
use std::fs;

const USERS: usize = 36;

impl Workplace {
    /// With `walks.txt` in it: users who walk through forty items with steps of one, two or three.
    fn new() -> Self {
        let place = Workplace::empty();
        place.file("walks.txt", walks(USERS, 7));
        place
    }

    /// Trains a SASRec for an epoch.
    fn run(&self, more: &[&str]) -> String {
        self.run_on("walks.txt", more)
    }

    fn run_on(&self, data: &str, more: &[&str]) -> String {
        let options = ["run", "--method", "sasrec", "--dataset", data, "--device", "cpu", "--epochs", "1"];
        let small = ["--set", "dim=8", "--set", "inner_dim=8", "--set", "batch_size=16", "--set", "max_len=8"];
        self.succeeds(&[&options[..], &small, more].concat())
    }

    fn ranks(&self, run: &str, name: &str) -> Vec<u32> {
        let bytes = fs::read(self.path(run).join("ranks.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let tensor = file.tensor(name).unwrap();
        assert_eq!((tensor.dtype(), tensor.shape()), (safetensors::Dtype::U32, &[USERS][..]), "{run} {name}");
        tensor.data().chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
    }
}

fn walks(users: usize, length: usize) -> String {
    let walk = |user: usize| -> String {
        let items = (0..length).map(|place| format!(" {}", 1 + (5 * user + place * (1 + user % 3)) % 40));
        format!("{user}{}\n", items.collect::<String>())
    };
    (0..users).map(walk).collect()
}

const SWEEP: &str = "\
method = 'sasrec'
dataset = 'walks.txt'
seeds = 2
[set]
epochs = 1
inner_dim = 8
batch_size = 16
max_len = 8
[grid]
dim = [4, 8]
[[variant]]
name = 'ce'
[[variant]]
name = 'bce'
set = { loss = 'bce' }
[[variant]]
name = 'pop'
method = 'pop'
";

/// `SWEEP` with keys that `pop` lacks taken out of its way: without the variant of another method.
fn sweep_of_sasrec() -> String {
    SWEEP.split("[[variant]]\nname = 'pop'").next().unwrap().to_string()
}

#[test]
fn the_stored_ranks_give_the_figures_of_the_run() {
    let place = Workplace::new();
    place.run(&["--out", "run", "--quiet"]);
    let result = place.json("run/result.json");
    for split in ["valid", "test", "test_history_kept", "test_uni99"] {
        let ranks = place.ranks("run", split);
        let mean =
            |gain: &dyn Fn(f64) -> f64| ranks.iter().map(|&rank| gain(f64::from(rank))).sum::<f64>() / USERS as f64;
        for k in [5.0, 10.0, 20.0] {
            let figures = [
                (format!("hr@{k}"), mean(&|rank| if rank <= k { 1.0 } else { 0.0 })),
                (format!("ndcg@{k}"), mean(&|rank| if rank <= k { 2f64.ln() / (1.0 + rank).ln() } else { 0.0 })),
            ];
            for (key, expected) in figures {
                let found = result[split][&key].as_f64().unwrap();
                assert!((found - expected).abs() < 1e-12, "{split} {key}: {found} against {expected}");
            }
        }
    }
    place.succeeds(&["eval", "--checkpoint", "run", "--device", "cpu", "--ranks", "again.safetensors"]);
    let bytes = |name: &str| fs::read(place.path(name)).unwrap();
    assert!(bytes("again.safetensors") == bytes("run/ranks.safetensors"), "an evaluation gives the ranks of the run");
}

#[test]
fn runs_are_compared_in_words_and_in_numbers() {
    let place = Workplace::new();
    place.run(&["--out", "a", "--quiet"]);
    place.run(&["--out", "b", "--quiet", "--seed", "2", "--set", "learning_rate=0.01"]);
    let text = place.succeeds(&["compare", "a", "b"]);
    for part in ["NDCG@10", "HR@5", "95 % interval", "Wilcoxon", "36 users", "Sampled units are the users"] {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
    let json: Value = serde_json::from_str(&place.succeeds(&["compare", "a", "b", "--json"])).unwrap();
    let result =
        |run: &str, split: &str, key: &str| place.json(&format!("{run}/result.json"))[split][key].as_f64().unwrap();
    for metric in json["metrics"].as_array().unwrap() {
        let key = metric["metric"].as_str().unwrap();
        let expected = result("a", "test", key) - result("b", "test", key);
        assert!((metric["difference"].as_f64().unwrap() - expected).abs() < 1e-12, "{metric}");
        let [low, high] = [0, 1].map(|end| metric["bootstrap"]["interval"][end].as_f64().unwrap());
        assert!(low <= expected && expected <= high, "{metric}");
        let users = ["better", "worse", "equal"].map(|count| metric[count].as_u64().unwrap());
        assert_eq!(users.iter().sum::<u64>(), USERS as u64);
    }
    for (protocol, key) in [("history-kept", "test_history_kept"), ("uni99", "test_uni99")] {
        let text = place.succeeds(&["compare", "a", "b", "--json", "--protocol", protocol]);
        let json: Value = serde_json::from_str(&text).unwrap();
        let expected = result("a", key, "hr@20") - result("b", key, "hr@20");
        assert!((json["metrics"][2]["difference"].as_f64().unwrap() - expected).abs() < 1e-12, "{protocol}");
        assert_eq!(json["protocol"], protocol);
    }

    for protocol in ["foo", "impressions"] {
        let parts = [&format!("protocol of ranks `{protocol}`"), "history-excluded, history-kept, uni99\n"];
        place.is_refused(&["compare", "a", "b", "--protocol", protocol], &parts);
    }
    let same = place.succeeds(&["compare", "a", "a"]);
    assert!(same.contains("The data do not tell A and B apart") && same.contains("36 equally well"), "{same}");
}

#[test]
fn runs_on_other_data_are_not_compared() {
    let place = Workplace::new();
    place.run(&["--out", "a", "--quiet"]);
    place.file("fewer.txt", walks(USERS - 1, 7));
    place.file("longer.txt", walks(USERS, 8));
    for name in ["fewer", "longer"] {
        place.run_on(&format!("{name}.txt"), &["--out", name, "--quiet"]);
    }
    place.is_refused(
        &["compare", "a", "fewer"],
        &["a (on walks.txt)", "fewer (on fewer.txt)", "the number of users, 36 and 35"],
    );
    place.is_refused(&["compare", "a", "longer"], &["the training events"]);
    place.is_refused(&["compare", "a", "nowhere"], &["nowhere does not exist"]);
    place.run(&["--out", "mixed/seed1", "--quiet"]);
    place.run(&["--out", "mixed/seed2", "--quiet", "--seed", "2", "--set", "learning_rate=0.01"]);
    place.is_refused(
        &["compare", "a", "mixed"],
        &["mixed/seed1 and mixed/seed2 are not seeds of one run: they differ in learning_rate"],
    );
    fs::remove_file(place.path("longer/ranks.safetensors")).unwrap();
    place.is_refused(&["compare", "a", "longer"], &["gpurec eval --checkpoint longer --ranks longer"]);
}

#[test]
fn seeds_are_trained_in_turn_summarised_and_continued() {
    let place = Workplace::new();
    let text = place.run(&["--seeds", "3", "--seed", "4", "--out", "many"]);
    assert!(text.contains("seed 5 (2 of 3)") && text.contains(" ± ") && text.contains("over 3 seeds"), "{text}");
    let summary = place.json("many/seeds.json");
    assert_eq!(summary["seeds"], serde_json::json!([4, 5, 6]));
    let values =
        [4, 5, 6].map(|seed| place.json(&format!("many/seed{seed}/result.json"))["test"]["ndcg@20"].as_f64().unwrap());
    let figure = &summary["test"]["ndcg@20"];
    assert_eq!(figure["values"], serde_json::json!(values));
    assert!((figure["mean"].as_f64().unwrap() - values.iter().sum::<f64>() / 3.0).abs() < 1e-15);

    // A single run with the seed is the same run.
    place.run(&["--seed", "5", "--out", "alone", "--quiet"]);
    let checkpoint = |run: &str| fs::read(place.path(run).join("checkpoint/best.safetensors")).unwrap();
    assert!(checkpoint("alone") == checkpoint("many/seed5"));
    let comparison = place.succeeds(&["compare", "many", "alone"]);
    assert!(comparison.contains("mean of 3 seeds") && comparison.contains(" ± "), "{comparison}");

    // What is lost is made again, what is finished stays.
    fs::remove_dir_all(place.path("many/seed6")).unwrap();
    let untouched = fs::metadata(place.path("many/seed4/result.json")).unwrap().modified().unwrap();
    let refused = ["run", "--method", "sasrec", "--dataset", "walks.txt", "--seeds", "2", "--out", "many"];
    place.is_refused(&refused, &["already holds a run", "--resume"]);
    let again = place.run(&["--seeds", "3", "--seed", "4", "--out", "many", "--resume"]);
    assert!(again.contains("seed 4 (1 of 3): finished before") && again.contains("best of 1 epochs"), "{again}");
    assert_eq!(fs::metadata(place.path("many/seed4/result.json")).unwrap().modified().unwrap(), untouched);
    assert!(place.json("many/seeds.json") == summary, "figures read back are the figures written");
    let quiet = place.run(&["--seeds", "3", "--seed", "4", "--out", "many", "--resume", "--quiet"]);
    assert!(quiet.contains("NDCG@10") && !quiet.contains("everything is in"), "{quiet}");
    place.is_refused(
        &[&refused[..], &["--resume", "--seed", "4"]].concat(),
        &["seed4 holds another run", "dim, 8 and 64"],
    );
}

#[test]
fn each_seed_draws_its_own_sessions_and_tables_have_the_kinds_of_events() {
    let place = Workplace::new();
    let events = walks(USERS, 7).lines().fold("user,item,event\n".to_string(), |text, line| {
        let mut words = line.split(' ');
        let user = words.next().unwrap();
        let kind = |n: usize| if n % 3 == 2 { "sale" } else { "view" };
        text + &words.enumerate().map(|(n, item)| format!("{user},{item},{}\n", kind(n))).collect::<String>()
    });
    place.file("events.csv", events);
    let log = ["--dataset", "events.csv", "--split", "sessions:0.5,0.25,0.25", "--device", "cpu"];
    let text = place.succeeds(&[&["run", "--method", "pop", "--seeds", "2", "--out", "many"][..], &log].concat());
    for part in ["drawn at random (anew for each seed)", "\nsale:\n", "\nview:\n", "NDCG_OFF@10"] {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
    for seed in [1, 2] {
        let config = place.text(&format!("many/seed{seed}/config.toml"));
        assert!(config.contains(&format!("split = \"sessions:0.5,0.25,0.25,{seed}\"")), "{config}");
    }
    let values = |seed: u64| place.json(&format!("many/seed{seed}/result.json"));
    let of_sales = |values: &Value| values["by_kind"]["sale"]["test_history_kept"]["ndcg_off@10"].clone();
    assert_ne!(of_sales(&values(1)), of_sales(&values(2)), "other sessions are held out");
    let mean = (of_sales(&values(1)).as_f64().unwrap() + of_sales(&values(2)).as_f64().unwrap()) / 2.0;
    let summary = of_sales(&place.json("many/seeds.json"));
    assert!((summary["mean"].as_f64().unwrap() - mean).abs() < 1e-15, "{summary}");
    let page = place.text("many/seed1/report.html");
    assert!(page.contains("<th>NDCG_OFF@10</th>") && page.contains("Test, sale, history kept"), "{page}");

    // The run's own division, whether it is named by number or left to the seed.
    let hr = format!("{:.4}", values(2)["test"]["hr@10"].as_f64().unwrap());
    for split in [&["--split", "sessions:0.5,0.25,0.25"][..], &[]] {
        let again = place.succeeds(&[&["eval", "--checkpoint", "many/seed2", "--device", "cpu"][..], split].concat());
        assert!(again.contains(&format!("┆ {hr} ┆")) && again.contains("drawing 2"), "{again}");
    }
    let cells = "[[variant]]\nname = 'pop'\nmethod = 'pop'\n";
    place.file("sweep.toml", format!("method = 'pop'\ndataset = 'events.csv'\nseeds = 2\n{cells}"));
    let sweep = place.succeeds(&[&["sweep", "--config", "sweep.toml", "--out", "sweep"][..], &log[2..]].concat());
    let report = place.succeeds(&["report", "many"]);
    for row in ["history kept", "history kept, sale", "history excluded, view"] {
        assert!(
            sweep.contains(&format!(" {row} ")) && report.contains(&format!("| {row} |")),
            "{row}:\n{sweep}\n{report}"
        );
    }
    // Paired session by session: those that either seed held out.
    let same = place.succeeds(&["compare", "many", "sweep/pop"]);
    assert!(same.contains("the held-out sessions of 2 seeds") && same.contains("+0.0000"), "{same}");
    let sales = place.succeeds(&["compare", "many", "sweep/pop", "--kind", "sale", "--protocol", "history-kept"]);
    assert!(sales.contains("test, history kept, sale"), "{sales}");
    place.is_refused(&["compare", "many", "sweep/pop", "--kind", "sael"], &["unknown kind of event `sael`", "sale"]);
    let other = ["compare", "many", "many/seed1"];
    place.is_refused(&other, &["held out other sessions: 2 divisions and 1", "seed by seed"]);
    let csv = place.text("sweep/table.csv");
    assert!(csv.contains(",history-kept/sale,") && csv.contains(",ndcg_off@10,"), "{csv}");
}

#[test]
fn a_sweep_trains_every_cell_into_one_table() {
    let place = Workplace::new();
    place.file("sweep.toml", sweep_of_sasrec());
    let sweep = ["sweep", "--config", "sweep.toml", "--device", "cpu"];
    let plan = place.succeeds(&[&sweep[..], &["--dry-run"]].concat());
    assert!(plan.contains("bce,dim=8") && plan.contains("0 of 2"), "{plan}");
    assert!(!place.path("runs").exists(), "a dry run writes nothing");

    let text = place.succeeds(&sweep);
    assert!(text.contains("cell 4 of 4: bce,dim=8, seed 2 (2 of 2)") && text.contains(" ± "), "{text}");
    let names = ["ce,dim=4", "ce,dim=8", "bce,dim=4", "bce,dim=8"];
    let mut table = csv::Reader::from_path(place.path("runs/sweep/table.csv")).unwrap();
    let header = table.headers().unwrap().clone();
    let column = |name: &str| header.iter().position(|column| column == name).unwrap();
    for (number, record) in table.records().map(Result::unwrap).enumerate() {
        let name = names[number / 3];
        let (protocol, split) =
            [("history-excluded", "test"), ("history-kept", "test_history_kept"), ("uni99", "test_uni99")][number % 3];
        assert_eq!(&record[column("protocol")], protocol);
        assert_eq!(&record[column("cell")], name);
        assert_eq!(&record[column("dim")], &name[name.len() - 1..]);
        let summary = place.json(&format!("runs/sweep/{name}/seeds.json"));
        let mean: f64 = record[column("ndcg@10")].parse().unwrap();
        assert_eq!(Some(mean), summary[split]["ndcg@10"]["mean"].as_f64());
    }
    assert_eq!(place.text("runs/sweep/table.md").lines().filter(|line| line.contains("ce,dim=")).count(), 3 * 4);
    // Two variants, `ce` and `bce`, over the two values of `dim`; two seeds of four cells.
    let figure = place.text("runs/sweep/figure.svg");
    assert!(["\nce\n", "\nbce\n", "\ndim\n", "\n4\n", "\n8\n"].iter().all(|part| figure.contains(part)), "{figure}");
    assert_eq!(place.text("runs/sweep/epochs.svg").matches("stroke-width=\"2\"").count(), 8);
    let config = place.text("runs/sweep/bce,dim=4/seed2/config.toml");
    assert!(config.contains("loss = \"bce\"") && config.contains("dim = 4") && config.contains("seed = 2"), "{config}");

    // Again: nothing to do. With another configuration or other data: refused, and what differs is said.
    let again = place.succeeds(&sweep);
    assert_eq!(again.matches("finished before").count(), 8, "{again}");
    let resumed = place.succeeds(&[&sweep[..], &["--resume", "--quiet"]].concat());
    assert!(again.ends_with(&resumed) && resumed.contains("NDCG@10"), "{resumed}");
    let parts = ["cell ce,dim=4", "seed1 holds another run", "max_len, 8 and 9"];
    place.is_refused(&[&sweep[..], &["--set", "max_len=9"]].concat(), &parts);
    place.file("walks.txt", walks(USERS, 8));
    place.is_refused(&sweep, &["seed1 holds another run", "the training events"]);
}

#[test]
fn a_variant_can_begin_with_what_another_one_learned_and_train_nothing() {
    let place = Workplace::new();
    let variants = |own: &str| {
        let head = SWEEP.split("[grid]").next().unwrap();
        format!(
            "{head}[[variant]]\nname = 'a'\n[[variant]]\nname = 'b'\nstart_from = 'a'\nset = {{ epochs = 0{own} }}\n"
        )
    };
    place.file("sweep.toml", variants(""));
    let sweep = ["sweep", "--config", "sweep.toml", "--device", "cpu"];
    let plan = place.succeeds(&[&sweep[..], &["--dry-run"]].concat());
    assert!(plan.contains("start_from=a,epochs=0"), "{plan}");
    place.succeeds(&sweep);
    let figures = |cell: &str| place.json(&format!("runs/sweep/{cell}/seeds.json"))["test"].clone();
    assert_eq!(figures("a"), figures("b"), "each seed is evaluated with its own parameters");
    assert_eq!(place.text("runs/sweep/epochs.svg").matches("stroke-width=\"2\"").count(), 2, "b has no epochs");
    assert_eq!(place.succeeds(&sweep).matches("finished before").count(), 4);

    place.file("wider.toml", variants(", inner_dim = 9"));
    place.is_refused(&["sweep", "--config", "wider.toml", "--device", "cpu"], &["nothing is to be trained"]);
}

#[test]
fn a_sweep_that_was_killed_in_its_second_cell_goes_on_to_the_same_figures() {
    let place = Workplace::new();
    let grid = sweep_of_sasrec().replace("epochs = 1", "epochs = 20").replace("seeds = 2\n", "");
    place.file("sweep.toml", grid.replace("[set]", "[set]\npatience = 100"));
    let options = |out| ["sweep", "--config", "sweep.toml", "--device", "cpu", "--quiet", "--out", out];
    let whole = place.succeeds(&options("whole"));

    place.is_killed_at("killed/ce,dim=8/seed1/checkpoint/latest.safetensors", &options("killed"));
    assert!(place.path("killed/ce,dim=4/seeds.json").exists());
    assert!(!place.path("killed/bce,dim=8/seed1/result.json").exists(), "the sweep was over before it could be killed");

    assert_eq!(place.succeeds(&options("killed")), whole);
    assert_eq!(place.text("killed/table.csv"), place.text("whole/table.csv"));
}

#[test]
fn mistakes_in_a_sweep_are_found_before_anything_is_trained() {
    let place = Workplace::new();
    let refused = |content: &str, parts: &[&str]| {
        place.file("bad.toml", content);
        place.is_refused(&["sweep", "--config", "bad.toml", "--device", "cpu"], parts);
        assert!(!place.path("runs").exists());
    };
    let base = sweep_of_sasrec();
    refused(&base.replace("set = { loss", "set = { lss"), &["cell bce,dim=4", "did you mean `loss`?"]);
    refused(&base.replace("dim = [4, 8]", "dim = [4, 'wide']"), &["cell ce,dim=wide", "`dim`"]);
    refused(&base.replace("'bce'", "'b/c'"), &["`b/c,dim=4` cannot be the name of a cell"]);
    refused(&base.replace("seeds = 2", "sedes = 2"), &["bad.toml:3:1", "sedes"]);
    refused(&base.replace("seeds = 2", "seeds = 0"), &["seeds = 0"]);
    refused(&base.replace("walks.txt", "none.txt"), &["none.txt"]);
    refused("method = 'sasrec'\ndataset = 'walks.txt'\n", &["nothing to sweep over"]);
    refused("method = = 'sasrec'\n", &["bad.toml:1:", "help: a sweep is TOML"]);
    refused(SWEEP, &["cell pop,dim=4", "unknown configuration key `epochs`"]);
}

#[test]
fn the_sweeps_of_the_documentation_name_keys_that_exist() {
    let place = Workplace::new();
    let folder = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/sweeps");
    let cells = [
        ("first-look", 4),
        ("lma4rec-ablation", 4),
        ("lma4rec-lambda", 6),
        ("lma4rec-dim", 5),
        ("diffrec-ablation", 18),
        ("sa2c", 25),
        ("sa2c-details", 13),
        ("snqn-negatives", 10),
    ];
    for (name, count) in cells {
        let file = folder.join(format!("{name}.toml")).display().to_string();
        let plan = place.succeeds(&["sweep", "--config", &file, "--dataset", "kuairec", "--dry-run"]);
        assert_eq!(plan.matches(" 0 of ").count(), count, "{plan}");
    }
    // Those of methods of lists are looked at in lists.rs.
    let of_lists = ["drl-rec", "drl-rec-compression", "drl-rec-kept"].len();
    assert_eq!(fs::read_dir(folder).unwrap().count(), cells.len() + of_lists);
}
