//! The table of `gpurec report`: a group for each data set, in the order in which the runs name them.

use super::page;
use super::runs::Entry;
use crate::cli::console::grouped as thousands;
use crate::cli::results::PublishedRows;
use crate::cli::seeds::with_deviation;
use crate::eval::{Protocol, Summary};
use serde::Serialize;

const CAPTION: &str = "Test; mean over seeds, ± standard deviation where there are several. Seconds are those of one seed, in the \
                       mean.";

/// Runs on the same events under the same split, judged by the same metrics.
pub struct Group {
    entries: Vec<Entry>,
    /// Of their methods.
    published: PublishedRows,
}

pub fn grouped(entries: Vec<Entry>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for entry in entries {
        let of_its_kind = |group: &&mut Group| {
            let first = &group.entries[0];
            first.data.difference(&entry.data).is_none() && first.results.keys() == entry.results.keys()
        };
        let place = match groups.iter_mut().find(of_its_kind) {
            Some(group) => group,
            None => groups.push_mut(Group { entries: Vec::new(), published: PublishedRows::default() }),
        };
        place.published.add(entry.info.title, entry.published.clone());
        place.entries.push(entry);
    }
    groups
}

/// What goes before the metrics.
const NAMES: [&str; 6] = ["run", "method", "seeds", "epochs", "seconds", "protocol"];

/// Cells as the formats share them.
#[derive(Serialize)]
struct Row {
    published: bool,
    cells: Vec<String>,
}

impl Group {
    /// Data set, size and split.
    fn title(&self) -> String {
        let data = &self.entries[0].data;
        let (users, items) = (thousands(data.users), thousands(data.items));
        format!("{}: {users} users, {items} items, split {}", self.dataset(), data.split)
    }

    fn dataset(&self) -> &str {
        &self.entries[0].results.runs[0].dataset
    }

    fn header(&self) -> Vec<String> {
        let names = NAMES.into_iter().map(String::from);
        names.chain(self.entries[0].results.keys().iter().map(|key| key.to_uppercase())).collect()
    }

    fn rows(&self) -> Vec<Row> {
        let under = |protocol: Protocol| {
            let ours = self.entries.iter().filter_map(move |entry| {
                let figures = entry.results.test(protocol)?;
                let names = entry.names().into_iter().chain([protocol.title().into()]);
                let cells = names.chain(figures.iter().map(with_deviation)).collect();
                Some(Row { published: false, cells })
            });
            let published = self.published.rows(protocol).map(move |(label, title, figures)| {
                let none = String::new;
                let names = [label, title.to_string(), none(), none(), none(), protocol.title().into()];
                Row { published: true, cells: names.into_iter().chain(figures).collect() }
            });
            ours.chain(published)
        };
        Protocol::ALL.into_iter().flat_map(under).collect()
    }

    fn notes(&self) -> Vec<String> {
        self.published.notes()
    }
}

impl Entry {
    /// Run, method, seeds, epochs and seconds.
    fn names(&self) -> [String; 5] {
        let runs = &self.results.runs;
        let seeds: Vec<String> = runs.iter().map(|run| run.seed.to_string()).collect();
        let epochs = runs.iter().map(|run| run.epochs);
        let (least, most) = (epochs.clone().min().unwrap_or(0), epochs.max().unwrap_or(0));
        let epochs = if least == most { most.to_string() } else { format!("{least} to {most}") };
        let seconds = runs.iter().map(|run| run.seconds).sum::<f64>() / runs.len() as f64;
        [self.folder.clone(), self.info.title.into(), seeds.join(", "), epochs, format!("{seconds:.1}")]
    }
}

pub fn markdown(groups: &[Group]) -> String {
    let line = |cells: Vec<String>| {
        let cells: Vec<String> = cells.iter().map(|cell| escaped(cell)).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let group = |group: &Group| {
        let header = line(group.header());
        let rule = format!("|---|---|---|---:|---:|---|{}\n", "---:|".repeat(group.header().len() - NAMES.len()));
        let rows: String = group.rows().into_iter().map(|row| line(row.cells)).collect();
        let notes: String = group.notes().into_iter().map(|note| format!("\n{note}\n")).collect();
        format!("## {}\n\n{header}{rule}{rows}{notes}\n", escaped(&group.title()))
    };
    groups.iter().map(group).collect::<String>() + CAPTION + "\n"
}

/// What Markdown would take for its own, and what would end a line.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_control() => escaped.push(' '),
            '|' | '<' | '>' | '&' | '*' | '`' | '[' | ']' | '\\' => escaped.extend(['\\', c]),
            c => escaped.push(c),
        }
    }
    escaped
}

pub fn html(groups: &[Group]) -> String {
    #[derive(Serialize)]
    struct Shown {
        title: String,
        header: Vec<String>,
        rows: Vec<Row>,
        notes: Vec<String>,
    }
    #[derive(Serialize)]
    struct Page {
        title: &'static str,
        caption: &'static str,
        groups: Vec<Shown>,
    }
    let shown = |group: &Group| Shown {
        title: group.title(),
        header: group.header(),
        rows: group.rows(),
        notes: group.notes(),
    };
    let groups = groups.iter().map(shown).collect();
    page::render("runs.html", Page { title: "Runs of gpurec", caption: CAPTION, groups })
}

/// One table, with the data set in its first columns; mean and standard deviation in full precision.
pub fn csv(groups: &[Group]) -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut write = |record: Vec<String>| writer.write_record(record).expect("memory takes rows of one length");
    let mut keys: Vec<String> = Vec::new();
    for key in groups.iter().flat_map(|group| group.entries[0].results.keys()) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    let figures = keys.iter().flat_map(|key| [key.clone(), format!("{key}_sd")]);
    let names = ["dataset", "users", "items", "split"].into_iter().chain(NAMES).map(String::from);
    write(names.chain(figures).collect());
    for group in groups {
        let data = &group.entries[0].data;
        let data = [group.dataset().into(), data.users.to_string(), data.items.to_string(), data.split.clone()];
        let own = group.entries[0].results.keys();
        let mut row = |names: [String; 5], protocol: Protocol, figures: &[Summary]| {
            let place = |key| own.iter().position(|known| known == key);
            let of_key = |key| place(key).map_or([None; 2], |place| [Some(figures[place].mean), figures[place].sd]);
            let figures = keys.iter().flat_map(of_key).map(|figure| figure.filter(|figure| !figure.is_nan()));
            let figures = figures.map(|figure| figure.map_or(String::new(), |figure| figure.to_string()));
            write(data.iter().cloned().chain(names).chain([protocol.to_string()]).chain(figures).collect());
        };
        for (entry, protocol) in group.entries.iter().flat_map(|entry| Protocol::ALL.map(|protocol| (entry, protocol)))
        {
            entry.results.test(protocol).iter().for_each(|figures| row(entry.names(), protocol, figures));
        }
        for (title, published) in group.published.iter() {
            let none = String::new;
            let names = [format!("published: {}", published.source), title.to_string(), none(), none(), none()];
            row(names, published.protocol, &published.figures.map(|figure| Summary::of(vec![figure])));
        }
    }
    let bytes = writer.into_inner().expect("memory takes all bytes");
    String::from_utf8(bytes).expect("rows of text")
}
