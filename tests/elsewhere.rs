//! A trained model put to use: lists for a file of histories, and the exported tables in the hands of another program.

use assert_cmd::Command;
use gpurec::data::sample::Uni99;
use gpurec::data::{self, Interactions};
use gpurec::eval::{ByProtocol, Protocol};
use gpurec::train::UserRanks;
use safetensors::SafeTensors;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::PathBuf;
use std::process::Output;
use tempfile::TempDir;

/// A folder for one test, with the first 300 users of the bundled data set: more than are scored at once.
struct Workplace {
    folder: TempDir,
    data: Interactions,
}

impl Workplace {
    fn new() -> Self {
        let data = data::resolve("kuairec", &data::ReadOptions::default()).unwrap().head(300);
        let place = Workplace { folder: tempfile::tempdir().unwrap(), data };
        place.write("data.txt", &place.lines(0));
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    fn json(&self, name: &str) -> serde_json::Value {
        serde_json::from_str(&self.text(name)).unwrap()
    }

    /// The names of all items of a user but the last `without`.
    fn history(&self, user: usize, without: usize) -> Vec<&str> {
        let sequence = self.data.sequence(user);
        sequence[..sequence.len() - without].iter().map(|&item| self.data.items[item as usize].as_str()).collect()
    }

    fn lines(&self, without: usize) -> String {
        let users = self.data.users.iter().enumerate();
        users.map(|(u, name)| format!("{name} {}\n", self.history(u, without).join(" "))).collect()
    }

    fn gpurec(&self, arguments: &str) -> Output {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("gpurec"));
        command.current_dir(self.folder.path()).args(arguments.split_whitespace()).output().unwrap()
    }

    /// What is printed on stdout and on stderr.
    fn succeeds(&self, arguments: &str) -> (String, String) {
        let output = self.gpurec(arguments);
        assert!(output.status.success(), "{arguments}: {output:?}");
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    fn is_refused(&self, arguments: &str, parts: &[&str]) {
        let before = fs::read_dir(self.folder.path()).unwrap().count();
        let output = self.gpurec(arguments);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments}: {message}");
        for part in [&["error: "], parts].concat() {
            assert!(message.contains(part), "{arguments}: `{part}` is not in:\n{message}");
        }
        assert_eq!(fs::read_dir(self.folder.path()).unwrap().count(), before, "{arguments} left something behind");
    }

    fn train(&self, method: &str, settings: &str) {
        let run = format!("run --method {method} --dataset data.txt --device cpu --quiet --out out {settings}");
        self.succeeds(&run);
    }

    fn tensors(&self, name: &str) -> HashMap<String, (Vec<usize>, Vec<f32>)> {
        let bytes = fs::read(self.path(name)).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let words = |data: &[u8]| data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        tensors.iter().map(|(name, t)| (name.to_string(), (t.shape().to_vec(), words(t.data())))).collect()
    }
}

const TINY_SASREC: &str = "--epochs 2 --set dim=16 --set inner_dim=32 --set batch_size=64";

/// Rank, item and score of each user's list.
type Lists = HashMap<String, Vec<(usize, String, f32)>>;

fn lists_of_table(text: &str, separator: u8) -> Lists {
    let mut lists = Lists::new();
    let mut reader = csv::ReaderBuilder::new().delimiter(separator).from_reader(text.as_bytes());
    assert_eq!(reader.headers().unwrap(), vec!["user", "rank", "item", "score"]);
    for row in reader.deserialize() {
        let (user, rank, item, score): (String, usize, String, f32) = row.unwrap();
        lists.entry(user).or_default().push((rank, item, score));
    }
    lists
}

fn lists_of_json_lines(text: &str) -> Lists {
    let mut lists = Lists::new();
    for line in text.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = |key: &str| row[key].as_str().unwrap().to_string();
        let entry = (row["rank"].as_u64().unwrap() as usize, text("item"), row["score"].as_f64().unwrap() as f32);
        lists.entry(text("user")).or_default().push(entry);
    }
    lists
}

#[test]
fn the_lists_of_a_file_are_those_of_each_history_alone() {
    let place = Workplace::new();
    place.train("sasrec", TINY_SASREC);
    let recommend = "recommend --checkpoint out --device cpu --top-k 7";
    let (said, _) = place.succeeds(&format!("{recommend} --input data.txt --output lists.csv"));
    assert!(said.contains("2,100 recommendations for 300 users"), "{said}");
    let lists = lists_of_table(&place.text("lists.csv"), b',');
    assert_eq!(lists.len(), 300);
    let order: Vec<String> = place.text("lists.csv").lines().skip(1).step_by(7).map(String::from).collect();
    assert!(order.iter().zip(&place.data.users).all(|(row, user)| row.starts_with(&format!("{user},1,"))));
    for user in [0, 1, 127, 255, 256, 299] {
        let history = place.history(user, 0).join(",");
        let alone: Vec<serde_json::Value> =
            serde_json::from_str(&place.succeeds(&format!("{recommend} --json --history {history}")).0).unwrap();
        let alone: Vec<(usize, String, f32)> = (1..)
            .zip(alone)
            .map(|(rank, r)| (rank, r["item"].as_str().unwrap().into(), r["score"].as_f64().unwrap() as f32))
            .collect();
        assert_eq!(lists[&place.data.users[user]], alone, "user {user}");
    }

    // The same events as a table in another order, through other formats, on another number of threads.
    let mut rows: Vec<String> = Vec::new();
    for (u, user) in place.data.users.iter().enumerate() {
        rows.extend((0..).zip(place.history(u, 0)).map(|(time, item)| format!("{time}\t{item}\t{user}\n")));
    }
    rows.sort_by_key(|row| row.bytes().rev().fold(0u32, |hash, byte| hash.wrapping_mul(31) + u32::from(byte)));
    place.write("events.tsv", &format!("when\titem\twho\n{}", rows.concat()));
    let columns = "--user-col who --time-col when --threads 1";
    place.succeeds(&format!("{recommend} --input events.tsv {columns} --output lists.jsonl"));
    place.succeeds(&format!("{recommend} --input events.tsv {columns} --output lists.tsv"));
    assert_eq!(lists_of_json_lines(&place.text("lists.jsonl")), lists);
    assert_eq!(lists_of_table(&place.text("lists.tsv"), b'\t'), lists);

    place.succeeds(&format!("{recommend} --input data.txt --output kept.csv --keep-history"));
    let kept = lists_of_table(&place.text("kept.csv"), b',');
    let again = |lists: &Lists| {
        let of_history = |u: usize| {
            let history = place.history(u, 0);
            lists[&place.data.users[u]].iter().filter(|(_, item, _)| history.contains(&item.as_str())).count()
        };
        (0..300).map(of_history).sum::<usize>()
    };
    assert_eq!(again(&lists), 0);
    assert!(again(&kept) > 0);
}

#[test]
fn what_the_model_does_not_know_is_refused_or_left_out_and_told() {
    let place = Workplace::new();
    place.train("pop", "");
    let item = &place.data.items[5];
    place.write("some.csv", &format!("user,item\nann,{item}\nbob,cup\nann,pot\ncid,{item}\n"));
    let recommend = "recommend --checkpoint out --device cpu --top-k 3";
    place.is_refused(
        &format!("{recommend} --input some.csv --output x.csv"),
        &["`cup`", "user `bob`", "--skip-unknown"],
    );
    let (said, told) = place.succeeds(&format!("{recommend} --input some.csv --output x.csv --skip-unknown"));
    assert!(said.contains("6 recommendations for 2 users"), "{said}");
    assert!(told.contains("2 events with 2 items") && told.contains("1 users") && told.contains(": bob"), "{told}");
    let lists = lists_of_table(&place.text("x.csv"), b',');
    assert_eq!(lists.keys().collect::<HashSet<_>>(), HashSet::from([&"ann".to_string(), &"cid".to_string()]));

    place.write("none.csv", "user,item\nann,cup\n");
    place.is_refused(
        &format!("{recommend} --input none.csv --output y.csv --skip-unknown"),
        &["knows no item of none.csv"],
    );
    place.is_refused(&format!("{recommend} --input some.csv --output y.xlsx"), &["y.xlsx", ".jsonl"]);
    place.is_refused(&format!("{recommend} --input some.csv --output some.csv"), &["would replace --input"]);
    place.is_refused(&format!("{recommend} --input some.csv --output y.csv --split ratio:0.8,0.1,0.1"), &["--split"]);
    place.is_refused(&format!("{recommend} --input some.csv"), &["--output"]);
    place.is_refused(&format!("{recommend} --input some.csv --output y.csv --history {item}"), &["--history"]);
    place.is_refused("export --checkpoint out --device cpu --out y --queries some.csv", &["`cup`", "user `bob`"]);
    place.is_refused("export --checkpoint out --device cpu --out out", &["out exists already"]);
    let (_, told) = place.succeeds("export --checkpoint out --device cpu --out y --queries some.csv --skip-unknown");
    assert!(told.contains("no query for 1 users"), "{told}");
}

#[test]
fn an_export_that_is_refused_writes_nothing() {
    let place = Workplace::new();
    let size = "--set dim=8 --set inner_dim=8 --set max_len=8 --set blocks=1 --set steps=4";
    place.train("diffrec", &format!("--epochs 1 --set batch_size=64 --set samples=2 {size}"));
    place.is_refused("export --checkpoint out --device cpu --out y", &["several samples of a query", "help: "]);
}

/// The exported tables, read without gpurec; scores in f64.
struct Exported {
    items: Vec<String>,
    table: Vec<f32>,
    bias: Option<Vec<f32>>,
    dim: usize,
}

impl Exported {
    fn read(place: &Workplace) -> Self {
        let items: Vec<String> = place.text("exported/items.txt").lines().map(String::from).collect();
        let mut tensors = place.tensors("exported/item_table.safetensors");
        let (shape, table) = tensors.remove("table").unwrap();
        assert_eq!(shape[0], items.len());
        let bias = tensors.remove("bias").map(|(shape, bias)| {
            assert_eq!(shape, [items.len()]);
            bias
        });
        Exported { items, table, bias, dim: shape[1] }
    }

    fn scores(&self, query: &[f32]) -> Vec<f64> {
        let product = |row: &[f32]| row.iter().zip(query).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let bias = |item: usize| self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[item]));
        self.table.chunks(self.dim).enumerate().map(|(item, row)| product(row) + bias(item)).collect()
    }

    fn index(&self, name: &str) -> usize {
        self.items.iter().position(|item| item == name).unwrap()
    }

    fn top_10(&self, query: &[f32], history: &HashSet<usize>) -> Vec<(&str, f64)> {
        let scores = self.scores(query);
        let mut items: Vec<usize> = (0..self.items.len()).filter(|item| !history.contains(item)).collect();
        items.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        items.into_iter().take(10).map(|item| (self.items[item].as_str(), scores[item])).collect()
    }
}

/// The place of the target; `None` if it is no candidate.
fn rank(scores: &[f64], target: usize, excluded: &HashSet<usize>) -> Option<u32> {
    let ahead = |item: usize| scores[item] > scores[target] || scores[item] == scores[target] && item < target;
    let before = (0..scores.len()).filter(|item| !excluded.contains(item) && ahead(*item)).count();
    (!excluded.contains(&target)).then_some(before as u32 + 1)
}

fn assert_metrics(ranks: &[Option<u32>], reported: &serde_json::Value, of: &str) {
    let mean = |gain: &dyn Fn(f64) -> f64| {
        ranks.iter().flatten().map(|&rank| gain(f64::from(rank))).sum::<f64>() / ranks.len() as f64
    };
    let close = |name: &str, ours: f64| {
        let theirs = reported[name].as_f64().unwrap();
        assert!((ours - theirs).abs() < 1e-12, "{of} {name}: {ours} from the tables, {theirs} in result.json");
    };
    for k in [5, 10, 20] {
        let within = |rank: f64| rank <= f64::from(k);
        close(&format!("hr@{k}"), mean(&|rank| f64::from(u8::from(within(rank)))));
        close(&format!("ndcg@{k}"), mean(&|rank| if within(rank) { 1.0 / (rank + 1.0).log2() } else { 0.0 }));
    }
    close("mrr", mean(&|rank| 1.0 / rank));
}

/// Exports the run in `out` and computes everything that it reported again, from `queries` of all test users.
fn computed_again(place: &Workplace, options: &str, queries: &dyn Fn() -> Vec<f32>) {
    place.succeeds(&format!("export --checkpoint out --device cpu --out exported {options}"));
    let exported = Exported::read(place);
    assert_eq!(exported.items, place.data.items);

    let examples = place.json("exported/examples.json");
    let vectors = place.tensors("exported/examples.safetensors").remove("query").unwrap().1;
    let names = |list: &serde_json::Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_string()).collect()
    };
    assert_eq!(examples.as_array().unwrap().len(), vectors.len() / exported.dim);
    for (example, query) in examples.as_array().unwrap().iter().zip(vectors.chunks(exported.dim)) {
        let history = names(&example["history"]).iter().map(|item| exported.index(item)).collect();
        let ours = exported.top_10(query, &history);
        assert_eq!(ours.iter().map(|(item, _)| *item).collect::<Vec<_>>(), names(&example["items"]));
        for ((_, ours), theirs) in ours.iter().zip(example["scores"].as_array().unwrap()) {
            let theirs = theirs.as_f64().unwrap();
            assert!((ours - theirs).abs() <= 1e-5 * (1.0 + ours.abs()), "{ours} and {theirs}");
        }
    }

    let queries = queries();
    assert_eq!(queries.len(), 300 * exported.dim);
    let (_, stored) = UserRanks::read(&place.path("out/ranks.safetensors")).unwrap();
    let uni99 = Uni99::new(&place.data);
    let (mut without, mut with, mut sampled) = (Vec::new(), Vec::new(), Vec::new());
    for (user, query) in queries.chunks(exported.dim).enumerate() {
        let scores = exported.scores(query);
        let history: HashSet<usize> = place.history(user, 1).into_iter().map(|item| exported.index(item)).collect();
        let target = *place.data.sequence(user).last().unwrap() as usize;
        without.push(rank(&scores, target, &history));
        with.push(rank(&scores, target, &HashSet::new()));
        let candidates = uni99.of(user as u32);
        let others = (0..scores.len()).filter(|item| *item != target && !candidates.contains(&(*item as u32)));
        sampled.push(rank(&scores, target, &others.collect()));
    }
    let numbers = |ranks: &[Option<u32>]| ranks.iter().map(|rank| rank.unwrap_or(u32::MAX)).collect::<Vec<_>>();
    let own = [&without, &with, &sampled].map(|ranks| numbers(ranks));
    let protocols = [Protocol::HistoryExcluded, Protocol::HistoryKept, Protocol::Uni99];
    assert_eq!(protocols.into_iter().zip(own).collect::<ByProtocol<_>>(), stored.test);
    let result = place.json("out/result.json");
    assert_metrics(&without, &result["test"], "test");
    assert_metrics(&with, &result["test_history_kept"], "history kept");
    assert_metrics(&sampled, &result["test_uni99"], "uni99");
}

/// By the queries that `--queries` writes for the histories before each test item.
fn computed_again_from_histories(method: &str, settings: &str) {
    let place = Workplace::new();
    place.train(method, settings);
    place.write("histories.txt", &place.lines(1));
    computed_again(&place, "--queries histories.txt", &|| {
        assert!(place.text("exported/users.txt").lines().eq(&place.data.users));
        place.tensors("exported/queries.safetensors").remove("query").unwrap().1
    });
}

#[test]
fn another_program_finds_the_lists_and_metrics_of_sasrec_from_the_export() {
    computed_again_from_histories("sasrec", TINY_SASREC);
}

#[test]
fn another_program_finds_the_lists_and_metrics_of_lma4rec_from_the_export() {
    let size = "--set dim=8 --set inner_dim=16 --set max_len=10 --set blocks=1";
    computed_again_from_histories("lma4rec", &format!("--epochs 1 --set batch_size=64 {size}"));
}

#[test]
fn another_program_breaks_the_ties_of_popularity_as_the_run_does() {
    computed_again_from_histories("pop", "");
}

#[test]
fn another_program_scores_with_biases_and_learned_users() {
    let place = Workplace::new();
    place.train("bpr", "--epochs 2 --set batch_size=64 --set bias=true --set dim=8");
    place.write("histories.txt", &place.lines(1));
    place.is_refused("export --checkpoint out --device cpu --out x --queries histories.txt", &["from a history alone"]);
    place.is_refused(
        "recommend --checkpoint out --device cpu --input histories.txt --output x.csv",
        &["from a history alone", "help: "],
    );
    computed_again(&place, "", &|| place.tensors("exported/model.safetensors").remove("model/user_table").unwrap().1);
    let readme = place.text("exported/README.md");
    assert!(readme.contains("+ bias[v]") && readme.contains("a row per user") && !readme.contains('{'), "{readme}");
}

/// A list is whole or not there, also when the program is stopped in the middle of it.
#[cfg(unix)]
#[test]
fn ctrl_c_leaves_no_unfinished_lists() {
    let place = Workplace::new();
    place.train("sasrec", TINY_SASREC);
    let again = |copy: usize| place.lines(0).lines().map(|line| format!("{copy}_{line}\n")).collect::<String>();
    place.write("many.txt", &(0..200).map(again).collect::<String>());
    let recommend = "recommend --checkpoint out --device cpu --skip-unknown --input many.txt --output lists/many.csv";
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin!("gpurec"))
        .current_dir(place.folder.path())
        .args(recommend.split_whitespace())
        .spawn()
        .unwrap();
    let files = || fs::read_dir(place.path("lists")).map_or(0, |files| files.count());
    while files() == 0 {
        assert!(child.try_wait().unwrap().is_none(), "it was over before it began to write");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let stop = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(stop.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(files(), 0, "something half-written is left");
}
