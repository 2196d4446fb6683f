//! `gpurec data fetch`, and what is known of a data set that is not here.

use crate::cli::console::{bar, grouped, note, say, shell_command};
use crate::data::catalog::{DATA_DIR, data_dir};
use crate::data::fetch::Checked;
use crate::data::manifest::{Access, Presence};
use crate::data::{Fetch, Fetched, Manifest, Watcher, manifest, manifests};
use crate::error::{Error, Result};
use indicatif::{HumanBytes, HumanDuration, ProgressBar};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const TEMPLATE: &str = "{bar:30} {bytes} of {total_bytes}  {msg}";
const TEMPLATE_WITHOUT_TOTAL: &str = "{spinner} {bytes}  {msg}";

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gpurec data fetch amazon_beauty\n  gpurec data fetch ml-1m --out data\n\nAn interrupted download goes on where it stopped when the command is run again."
)]
pub struct FetchArgs {
    /// A name of `gpurec data list`
    name: String,

    /// The data folder, in place of GPUREC_DATA_DIR or your own
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Download from here, such as a mirror; the file must be the published one all the same
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

pub fn fetch(args: &FetchArgs) -> Result<()> {
    let manifest = manifest(&args.name).ok_or_else(|| {
        let names: Vec<&str> = manifests().iter().map(|manifest| manifest.name.as_str()).collect();
        Error::unknown("data set", &args.name, &names)
    })?;
    let dir = args.out.clone().or_else(data_dir).ok_or_else(|| {
        let problem = "no data folder: this user has no home folder";
        Error::usage(problem, format!("give one with --out, or set {DATA_DIR}"))
    })?;
    note(format!("{}, {}", manifest.title, manifest.homepage));
    note(format!("terms: {}", manifest.terms));
    let mut progress = Progress::default();
    let fetched = Fetch { data_dir: &dir, url: args.url.as_deref(), pause: Duration::from_secs(2) };
    let fetched = fetched.run(manifest, &mut progress);
    progress.finish();
    let known = args.out.is_none() || args.out == data_dir();
    say(format!("{}next: {}", report(&fetched?), next(manifest, &dir, known)))
}

/// What is there now, and how far it can be trusted.
fn report(fetched: &Fetched) -> String {
    let mut text = String::new();
    for (file, checked) in &fetched.verified {
        let size = file.metadata().map_or(0, |metadata| metadata.len());
        let was = if fetched.downloaded { "fetched" } else { "already here" };
        text += &format!("{was}: {} ({})\n", file.display(), HumanBytes(size));
        text += &match checked {
            Checked::Published(kind, sum) => format!("verified: {kind} {sum}, as published\n"),
            Checked::Recorded { sha256, first: true } => format!(
                "not verified: nobody published a checksum of this file. Its sha256 is {sha256}; it is recorded beside it, and \
                 later copies are compared with it\n"
            ),
            Checked::Recorded { sha256, first: false } => {
                format!("the same as when it was first seen: sha256 {sha256}; nobody published a checksum\n")
            }
        };
    }
    text
}

/// The command that goes on from here; `known`: whether names are looked up in `dir` anyway.
fn next(manifest: &Manifest, dir: &Path, known: bool) -> String {
    // Quoted as a whole, an assignment would be a command.
    let set = if known { String::new() } else { format!("{DATA_DIR}={} ", shell_command([&*dir.to_string_lossy()])) };
    let command = if manifest.is_sequences() { ["run", "--dataset"] } else { ["data", "prepare"] };
    let words = ["gpurec"].into_iter().chain(command).chain([manifest.name.as_str()]);
    format!("{set}{}", shell_command(words))
}

/// What `gpurec data list` says of a set that is not ready.
pub fn where_to_get(manifest: &Manifest, data_dir: Option<&Path>) -> String {
    match (manifest.presence(data_dir), manifest.source.access) {
        (Presence::Fetched(folder), _) => format!("to prepare, in {}", folder.display()),
        (_, Access::Download) => "to fetch".into(),
        (_, Access::Manual) => "by hand; fetch says how".into(),
        (_, Access::Private) => "private".into(),
        (_, Access::Bundled) => "bundled".into(),
    }
}

/// What is known of a set that is not ready.
pub fn about(manifest: &Manifest, data_dir: Option<&Path>) -> String {
    let mut rows = vec![("homepage", manifest.homepage.clone()), ("cite", manifest.citation.clone())];
    if let Some(name) = &manifest.paper_name {
        rows.push(("papers", format!("{} (there: {name})", manifest.papers.join(", "))));
    }
    rows.push(("terms", manifest.terms.clone()));
    rows.extend(manifest.source.url.clone().map(|url| ("source", url)));
    for (kind, sum) in [("sha256", &manifest.source.sha256), ("md5", &manifest.source.md5)] {
        rows.extend(sum.clone().map(|sum| (kind, sum)));
    }
    rows.extend(manifest.source.bytes.map(|n| ("size", HumanBytes(n).to_string())));
    if !manifest.prepare.is_empty() {
        let steps: Vec<String> = manifest.prepare.iter().map(ToString::to_string).collect();
        rows.push(("prepared", steps.join("; then ")));
    }
    if let Some(expected) = manifest.expected {
        let about = if expected.approximate { "about " } else { "" };
        let [users, items, events] = [expected.users, expected.items, expected.interactions].map(grouped);
        rows.push(("expected", format!("{about}{users} users, {items} items, {events} interactions")));
    }
    rows.extend(manifest.note.clone().map(|note| ("note", note)));
    rows.push(("state", where_to_get(manifest, data_dir)));
    let lines: Vec<String> = rows.iter().map(|(key, value)| format!("  {key:9} {value}")).collect();
    let command = match manifest.presence(data_dir) {
        Presence::Fetched(_) => format!("\n\nnext: gpurec data prepare {}", manifest.name),
        _ if manifest.source.access == Access::Private => String::new(),
        _ => format!("\n\nnext: gpurec data fetch {}", manifest.name),
    };
    format!("{}: {}\n{}{command}", manifest.name, manifest.title, lines.join("\n"))
}

/// A bar for the bytes of one file. Speed and time left are those of this connection: what was here before took no time.
#[derive(Default)]
struct Progress {
    bar: Option<ProgressBar>,
    started: Option<Instant>,
    resumed_at: u64,
}

impl Progress {
    fn finish(&self) {
        self.bar.iter().for_each(ProgressBar::finish_and_clear);
    }
}

impl Watcher for Progress {
    fn started(&mut self, done: u64, total: Option<u64>) {
        self.finish();
        let template = if total.is_some() { TEMPLATE } else { TEMPLATE_WITHOUT_TOTAL };
        self.bar = Some(bar(total.unwrap_or(0) as usize, template, false).with_position(done));
        (self.started, self.resumed_at) = (Some(Instant::now()), done);
    }

    fn advanced(&mut self, done: u64) {
        let (Some(bar), Some(started)) = (&self.bar, self.started) else { return };
        let speed = (done - self.resumed_at) as f64 / started.elapsed().as_secs_f64().max(1e-3);
        let left = bar.length().unwrap_or(0).saturating_sub(done) as f64 / speed.max(1.0);
        let left = Duration::from_secs(left.ceil() as u64);
        let left = if left.is_zero() { String::new() } else { format!("  {:#} left", HumanDuration(left)) };
        bar.set_position(done);
        bar.set_message(format!("{}/s{left}", HumanBytes(speed as u64)));
    }

    fn note(&mut self, message: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| note(message)),
            None => note(message),
        }
    }
}
