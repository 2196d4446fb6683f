//! Reports as a user meets them: the page in the folder of a run, and the table of several runs.

#[path = "../kernels-test/chromium.rs"]
mod chromium;
mod common;

use assert_cmd::Command;
use common::Workplace;
use roxmltree::{Document, Node, ParsingOptions};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Everything that HTML, Markdown and shells take for their own.
#[cfg(unix)]
const HOSTILE: &str = "<b>&\"'|`.txt";
#[cfg(not(unix))]
const HOSTILE: &str = "b&'`.txt";

const FIGURES: [&str; 6] = ["hr@5", "hr@10", "hr@20", "ndcg@5", "ndcg@10", "ndcg@20"];

impl Workplace {
    /// Users who walk through forty items with steps of one, two or three.
    fn walks(&self, name: &str, users: usize) {
        let walk = |user: usize| {
            let events = (0..8).map(|i| ((user * 5 + i * (1 + user % 3)) % 40 + 1).to_string());
            format!("{} {}\n", user + 1, events.collect::<Vec<_>>().join(" "))
        };
        fs::write(self.path(name), (0..users).map(walk).collect::<String>()).unwrap();
    }

    fn run(&self, method: &str, data: &str, out: &str, more: &[&str]) {
        let options = ["run", "--method", method, "--dataset", data, "--out", out, "--device", "cpu", "--quiet"];
        let small: &[&str] = match method {
            "pop" => &[],
            _ => &["--epochs", "2", "--set", "dim=8", "--set", "inner_dim=8", "--set", "max_len=8"],
        };
        self.succeeds(&[&options[..], small, more].concat());
    }
}

/// Parses a page as XML, which is stricter than HTML, and refuses whatever would be loaded or run.
fn parsed(page: &str) -> Document<'_> {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    let document = Document::parse_with_options(page, options).unwrap_or_else(|e| panic!("{e} in\n{page}"));
    for node in document.descendants() {
        let known = ["script", "link", "img", "iframe", "object", "b"].iter().all(|name| !node.has_tag_name(*name));
        assert!(known, "{:?} in a report", node.tag_name());
        assert!(node.attributes().all(|a| !["src", "href"].contains(&a.name()) && !a.name().starts_with("on")));
    }
    for outside in ["http:", "https:", "url(", "@import"] {
        assert!(!page.contains(outside), "{outside} in\n{page}");
    }
    document
}

/// All text below a node.
fn text_of(node: Node) -> String {
    node.descendants().filter(Node::is_text).filter_map(|text| text.text()).collect()
}

/// The cells of the rows of all tables.
fn rows(document: &Document) -> Vec<Vec<String>> {
    let cells = |row: Node| {
        row.children().filter(Node::is_element).map(|cell| text_of(cell).trim().to_string()).collect::<Vec<_>>()
    };
    document.descendants().filter(|node| node.has_tag_name("tr")).map(cells).collect()
}

#[test]
fn a_run_leaves_a_page_with_its_figures_their_intervals_and_everything_to_repeat_it() {
    let place = Workplace::empty();
    place.walks(HOSTILE, 60);
    place.run("lma4rec", HOSTILE, "out", &["--seed", "7", "--split", "ratio:0.6,0.2,0.2"]);
    let (page, result) = (place.text("out/report.html"), place.json("out/result.json"));
    let document = parsed(&page);
    let rows = rows(&document);

    for (label, split) in [
        ("Validation", "valid"),
        ("Test, history excluded", "test"),
        ("Test, history kept", "test_history_kept"),
        ("Test, uni99", "test_uni99"),
    ] {
        let row = rows.iter().find(|row| row[0] == label).unwrap_or_else(|| panic!("{label} in {rows:?}"));
        for (cell, key) in row[1..].iter().zip(FIGURES) {
            let figure = result[split][key].as_f64().unwrap();
            let (shown, interval) = cell.split_at(6);
            assert_eq!(shown, format!("{figure:.4}"), "{label} {key}");
            let ends: Vec<f64> = interval.split('–').map(|end| end.trim().parse().unwrap()).collect();
            assert!(ends[0] <= figure + 5e-5 && figure <= ends[1] + 5e-5 && ends[0] < ends[1], "{label} {key}: {cell}");
        }
    }
    let value =
        |name: &str| rows.iter().find(|row| row[0] == name).unwrap_or_else(|| panic!("{name} in {rows:?}"))[1].clone();
    let name = HOSTILE.strip_suffix(".txt").unwrap();
    assert_eq!(value("name"), name);
    assert!(value("device").starts_with("cpu (") && value("seed") == "7" && value("dim") == "8", "{rows:?}");
    assert!(value("split").starts_with("The first 60 % of each user's events train"), "{}", value("split"));
    assert!(value("test targets").contains("cold") && value("test targets").contains("HR cannot exceed"));
    assert!(value("finished").ends_with("UTC") && value("written by").starts_with("gpurec "));
    assert!((0.0..=1.0).contains(&value("block 0").parse::<f64>().unwrap()));

    let of = |tag: &str| document.descendants().filter(|node| node.has_tag_name(tag)).map(text_of).collect::<Vec<_>>();
    assert_eq!(of("h1"), [format!("LMA4Rec on {name}")]);
    let captions = of("figcaption").join("; ");
    for curve in ["Training: loss", "Training: loss_rs", "Training: loss_ssl", "HR@20", "NDCG@5", "keep_block0"] {
        assert!(captions.contains(curve), "{curve} in {captions}");
    }
    assert_eq!(of("svg").len(), of("figcaption").len());
    // The first of the commands gives the same figures again.
    let command = of("pre")[0].lines().next().unwrap().replacen("gpurec", "\"$0\"", 1) + " --out again --quiet";
    if cfg!(unix) {
        let mut shell = Command::new("sh");
        shell.args(["-c", &command, assert_cmd::cargo::cargo_bin!("gpurec").to_str().unwrap()]);
        shell.current_dir(place.folder.path()).assert().success();
        assert_eq!(place.json("again/result.json")["test"], result["test"]);
    }
}

#[test]
fn a_run_without_epochs_has_a_report_and_a_lost_one_is_made_again() {
    let place = Workplace::empty();
    place.walks("walks.txt", 30);
    let run = ["--seeds", "1"];
    place.run("pop", "walks.txt", "out", &run);
    let page = place.text("out/seed1/report.html");
    assert!(!page.contains("<svg") && parsed(&page).descendants().any(|node| node.has_tag_name("table")));
    fs::remove_file(place.path("out/seed1/report.html")).unwrap();
    place.run("pop", "walks.txt", "out", &[&run[..], &["--resume"]].concat());
    assert_eq!(place.text("out/seed1/report.html"), page);
}

/// Two data sets that have one name, and are called what a known set is called, so that there are published figures.
#[test]
fn several_runs_share_a_table_for_each_data_set() {
    let place = Workplace::empty();
    for (folder, users) in [("a", 40), ("b", 30)] {
        fs::create_dir(place.path(folder)).unwrap();
        place.walks(&format!("{folder}/amazon_toys_and_games.txt"), users);
    }
    place.run("pop", "a/amazon_toys_and_games.txt", "pop|<i>", &[]);
    place.run("sasrec", "a/amazon_toys_and_games.txt", "seeds", &["--seeds", "2"]);
    place.run("pop", "b/amazon_toys_and_games.txt", "other", &[]);
    place.run("pop", "a/amazon_toys_and_games.txt", "ratio", &["--split", "ratio:0.6,0.2,0.2"]);
    let folders = ["report", "pop|<i>", "other", "seeds", "ratio"];

    let markdown = place.succeeds(&folders);
    let titles: Vec<&str> = markdown.lines().filter(|line| line.starts_with("## ")).collect();
    assert_eq!(titles.len(), 3, "{markdown}");
    assert!(titles[0].starts_with("## amazon_toys_and_games: 40 users, 40 items, split leave-one-out"), "{markdown}");
    assert!(titles[2].ends_with("split ratio:0.6,0.2,0.2"), "{markdown}");
    let lines: Vec<&str> = markdown.lines().filter(|line| line.starts_with('|')).collect();
    assert!(lines[2].starts_with("| pop\\|\\<i\\> | Popularity | 1 | 0 | "), "{markdown}");
    let seeds = place.json("seeds/seeds.json");
    let figure = |key: &str| (seeds["test"][key]["mean"].as_f64().unwrap(), seeds["test"][key]["sd"].as_f64().unwrap());
    let (mean, sd) = figure("ndcg@10");
    assert!(lines[3].starts_with("| seeds | SASRec | 1, 2 | 2 | "), "{markdown}");
    assert!(lines[3].contains(&format!("{mean:.4} ± {sd:.4}")), "{markdown}");
    assert!(lines[4].starts_with("| published (1) | Popularity |") && lines[4].contains(" 0.0052 "), "{markdown}");
    assert!(lines[5].starts_with("| published (3) | SASRec |"), "{markdown}");
    assert!(lines[6].starts_with("| pop\\|\\<i\\> ") && lines[6].contains("| history kept |"), "{markdown}");
    assert!(lines[8].contains("| uni99 |") && lines[10].starts_with("| published (2) | Popularity |"), "{markdown}");
    assert!(lines[10].contains("| uni99 | 0.1820 |"), "{markdown}");
    assert_eq!(
        markdown.matches("| published").count(),
        3 + 2,
        "no published figures stand beside another split: {markdown}"
    );

    let page = place.succeeds(&[&folders[..], &["--format", "html"]].concat());
    let document = parsed(&page);
    let of_pages = rows(&document);
    assert_eq!(of_pages.iter().filter(|row| row[0].starts_with("published")).count(), 3 + 2);
    assert!(of_pages.iter().any(|row| row[0] == "pop|<i>"), "{of_pages:?}");

    let csv = [&folders[..], &["--format", "csv", "--out", "table/all.csv"]].concat();
    assert_eq!(place.succeeds(&csv), "");
    let mut reader = csv::Reader::from_path(place.path("table/all.csv")).unwrap();
    let header = reader.headers().unwrap().clone();
    let records: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert_eq!(records.len(), 3 * 4 + 5);
    let of_seeds = records.iter().find(|record| &record[4] == "seeds").unwrap();
    let cell = |name: &str| &of_seeds[header.iter().position(|column| column == name).unwrap()];
    assert_eq!((cell("ndcg@10").parse(), cell("ndcg@10_sd").parse()), (Ok(mean), Ok(sd)));
    assert_eq!((cell("dataset"), cell("users"), cell("seeds")), ("amazon_toys_and_games", "40", "1, 2"));
}

#[test]
fn folders_without_a_finished_run_are_refused() {
    let place = Workplace::empty();
    place.walks("walks.txt", 30);
    place.is_refused(&["report", "nowhere"], &["nowhere does not exist", "--out"]);
    place.is_refused(&["report", "walks.txt"], &["walks.txt is no folder of a run"]);
    place.is_refused(&["report", "."], &["holds no finished run", "sweep"]);
    place.run("pop", "walks.txt", "one/seed1", &[]);
    place.run("pop", "walks.txt", "one/seed2", &["--seed", "2"]);
    place.succeeds(&["report", "one"]);
    place.run("pop", "walks.txt", "one/seed3", &["--split", "ratio:0.6,0.2,0.2"]);
    place.is_refused(&["report", "one"], &["are not seeds of one run", "the split"]);
    fs::remove_file(place.path("one/seed1/result.json")).unwrap();
    let unfinished = "seed1 holds a run that is not finished";
    place.is_refused(&["report", "one/seed1", "--out", "new.md"], &[unfinished, "--resume"]);
    assert!(!place.path("new.md").exists());
    fs::write(place.path("one/seed1/result.json"), "{}").unwrap();
    place.is_refused(&["report", "one/seed1"], &["result.json: not the result of a run"]);
}

#[test]
fn a_folder_of_cells_is_a_row_for_each_and_what_is_not_finished_is_left_out() {
    let place = Workplace::empty();
    place.walks("walks.txt", 30);
    place.run("pop", "walks.txt", "sweep/b", &[]);
    place.run("pop", "walks.txt", "sweep/a", &["--seeds", "2"]);
    fs::remove_file(place.path("sweep/a/seed1/result.json")).unwrap();
    fs::create_dir_all(place.path("sweep/c/seed1")).unwrap();
    fs::write(place.path("sweep/c/seed1/config.toml"), "").unwrap();
    fs::write(place.path("sweep/table.md"), "").unwrap();
    let output = place.gpurec(&["report", "sweep", "walks.txt"]);
    let [said, told] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    let rows: Vec<&str> =
        said.lines().filter(|line| line.ends_with('|') && line.contains("history excluded")).collect();
    assert_eq!(rows.len(), 2, "{said}");
    assert!(rows[0].starts_with("| sweep/a | Popularity | 2 |") && rows[1].starts_with("| sweep/b |"), "{said}");
    for part in
        ["sweep/a/seed1 holds a run that is not finished", "sweep/c/seed1 holds a run", "walks.txt is no folder"]
    {
        assert!(told.contains(&format!("left out: {part}")), "`{part}` is not in:\n{told}");
    }
    place.is_refused(&["report", "sweep", "nowhere"], &["nowhere does not exist"]);
    place.is_refused(&["report", "sweep/c"], &["sweep/c/seed1 holds a run that is not finished"]);
}

/// What a browser says of a page on its console.
fn complaints(browser: &Path, page: &Path) -> Vec<String> {
    let profile = tempfile::tempdir().unwrap();
    let mut command = Command::new(browser);
    command.args(["--headless", "--no-sandbox", "--no-first-run", "--disable-background-networking", "--disable-sync"]);
    command.args(["--disable-component-update", "--enable-logging=stderr", "--dump-dom"]);
    command.arg(format!("--user-data-dir={}", profile.path().display())).arg(format!("file://{}", page.display()));
    let output = command.timeout(Duration::from_secs(60)).output().unwrap();
    let document = String::from_utf8_lossy(&output.stdout);
    assert!(document.contains("</html>"), "the browser showed nothing: {output:?}");
    let log = String::from_utf8_lossy(&output.stderr);
    log.lines().filter(|line| line.contains("CONSOLE")).map(String::from).collect()
}

#[test]
fn a_browser_shows_a_report_without_complaint() {
    let Some(browser) = chromium::chromium() else {
        assert!(std::env::var("GPUREC_STRICT").as_deref() != Ok("1"), "no Chromium was found");
        println!("skipped: no Chromium was found");
        return;
    };
    let place = Workplace::empty();
    place.walks("walks.txt", 30);
    place.run("sasrec", "walks.txt", "out", &[]);
    assert_eq!(complaints(&browser, &place.path("out/report.html")), Vec::<String>::new());
    fs::write(place.path("bad.html"), "<!DOCTYPE html><html><script>nothing()</script></html>").unwrap();
    assert_ne!(complaints(&browser, &place.path("bad.html")), Vec::<String>::new(), "complaints would not be seen");
}
