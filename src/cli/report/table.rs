//! The table of `gpurec report`: a group for each data set, in the order in which the runs name them.

use super::entry::Entry;
use super::page;
use crate::cli::console::grouped as thousands;
use crate::cli::results::{PublishedRows, published_figures};
use crate::cli::seeds::Slice;
use crate::cli::sheet::{Column, Row, Sheet, escaped, numbers, words};
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

    /// Under each protocol our runs, then what was published.
    fn sheet(&self) -> Sheet {
        let slices = self.slices();
        let under = |slice: &Slice| {
            let ours = self.entries.iter().filter_map(|entry| {
                let names = entry.names().into_iter().chain([slice.title()]);
                Some(Row::measured(names, entry.results.test(slice)?))
            });
            let published = self.published.rows(slice.protocol).map(|(label, title, figures)| {
                let none = String::new;
                Row::published([label, title.into(), none(), none(), none(), slice.title()], figures)
            });
            ours.chain(published.filter(|_| slice.kind.is_none())).collect::<Vec<_>>()
        };
        Sheet::new(columns(), slices.iter().flat_map(under))
    }

    fn slices(&self) -> Vec<Slice> {
        Slice::all(self.entries.iter().map(|entry| &entry.results))
    }

    /// The same run by run, each with its data set and its split in front.
    fn rows_of_csv(&self) -> Vec<Row> {
        let data = &self.entries[0].data;
        let data = [self.dataset().into(), data.users.to_string(), data.items.to_string(), data.split.clone()];
        let named = |names: [String; 5], slice: String| data.clone().into_iter().chain(names).chain([slice]);
        let slices = self.slices();
        let pairs = self.entries.iter().flat_map(|entry| slices.iter().map(move |slice| (entry, slice)));
        let ours = pairs.filter_map(|(entry, slice)| {
            Some(Row::measured(named(entry.names(), slice.to_string()), entry.results.test(slice)?))
        });
        let published = self.published.iter().map(|(title, row)| {
            let none = String::new;
            let names = [format!("published: {}", row.source), title.to_string(), none(), none(), none()];
            Row::published(named(names, row.protocol.to_string()), published_figures(row))
        });
        ours.chain(published).collect()
    }
}

/// What goes before the metrics.
fn columns() -> [Column; 6] {
    [words("run"), words("method"), words("seeds"), numbers("epochs"), numbers("seconds"), words("protocol")]
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
    let group = |group: &Group| {
        let notes: String = group.published.notes().into_iter().map(|note| format!("\n{note}\n")).collect();
        format!("## {}\n\n{}{notes}\n", escaped(&group.title()), group.sheet().markdown())
    };
    groups.iter().map(group).collect::<String>() + CAPTION + "\n"
}

pub fn html(groups: &[Group]) -> String {
    #[derive(Serialize)]
    struct Line {
        published: bool,
        cells: Vec<String>,
    }
    #[derive(Serialize)]
    struct Shown {
        title: String,
        header: Vec<String>,
        rows: Vec<Line>,
        notes: Vec<String>,
    }
    #[derive(Serialize)]
    struct Page {
        title: &'static str,
        caption: &'static str,
        groups: Vec<Shown>,
    }
    let shown = |group: &Group| {
        let sheet = group.sheet();
        let rows = sheet.rows().iter().map(|row| Line { published: row.published, cells: sheet.cells(row) });
        let (title, notes) = (group.title(), group.published.notes());
        Shown { title, header: sheet.header(), rows: rows.collect(), notes }
    };
    let groups = groups.iter().map(shown).collect();
    page::render("runs.html", Page { title: "Runs of gpurec", caption: CAPTION, groups })
}

/// One table of all groups.
pub fn csv(groups: &[Group]) -> String {
    let columns = ["dataset", "users", "items", "split"].map(words).into_iter().chain(columns());
    Sheet::new(columns, groups.iter().flat_map(Group::rows_of_csv)).csv()
}
