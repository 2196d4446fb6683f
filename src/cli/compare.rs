//! `gpurec compare`: two runs, user by user, or list by list. Differences with their uncertainty, in a table and in words.

use super::console::{grouped, say, table};
use super::runs::{FinishedRun, no_ranks, of_seeds, refuse_different};
use super::seeds::{Slice, with_deviation};
use super::source::told;
use crate::error::{Error, Result};
use crate::eval::{self, Difference, MetricComparison, Protocol, Shown};
use crate::train::{DataIdentity, ListScores, TestScores, UserRanks};
use serde_json::json;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  gpurec compare runs/lma4rec-kuairec-seed1 runs/sasrec-kuairec-seed1
  gpurec compare runs/lma4rec-kuairec-seeds1-5 runs/sasrec-kuairec-seeds1-5
  gpurec compare runs/ablation/full runs/ablation/without_ssl --json
  gpurec compare runs/hgn-kuairec-seed1 runs/bert4rec-kuairec-seed1 --protocol uni99
  gpurec compare runs/sa2c-shop-seeds1-2 runs/snqn-shop-seeds1-2 --kind sale --protocol history-kept
  gpurec compare runs/drl-rec-shown-seeds1-3 runs/fm-shown-seeds1-3

Both runs must have been evaluated on the same users, items and held-out targets, or on the same lists.";

/// The metric that the verdict is about.
const PRIMARY: &str = "ndcg@10";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct CompareArgs {
    /// The folder of a run, or of several seeds (`gpurec run --seeds`, a cell of `gpurec sweep`)
    #[arg(value_name = "RUN_A")]
    a: PathBuf,

    /// What it is compared with
    #[arg(value_name = "RUN_B")]
    b: PathBuf,

    /// What the targets are ranked among: history-excluded, history-kept or uni99
    #[arg(long, value_name = "PROTOCOL", default_value_t, value_parser = protocol_of_ranks)]
    protocol: Protocol,

    /// Compare test events of this kind only, such as sales, where events have kinds
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,

    /// Print the comparison as JSON
    #[arg(long)]
    json: bool,
}

/// For clap.
fn protocol_of_ranks(text: &str) -> Result<Protocol, String> {
    const OF_RANKS: [Protocol; 3] = [Protocol::HistoryExcluded, Protocol::HistoryKept, Protocol::Uni99];
    let names = OF_RANKS.map(|protocol| protocol.to_string());
    let place = names.iter().position(|name| name == text);
    let unknown = || told(&Error::unknown("protocol of ranks", text, &names.each_ref().map(String::as_str)));
    place.map(|place| OF_RANKS[place]).ok_or_else(unknown)
}

pub fn compare(args: &CompareArgs) -> Result<()> {
    let (a, b) = (Side::read(&args.a)?, Side::read(&args.b)?);
    match (&a.seeds, &b.seeds) {
        (Seeds::Ranks(ours), Seeds::Ranks(theirs)) => compare_ranks(args, (&a, ours), (&b, theirs)),
        (Seeds::Scores(ours), Seeds::Scores(theirs)) => compare_lists(args, (&a, ours), (&b, theirs)),
        (Seeds::Ranks(_), Seeds::Scores(_)) => Err(of_two_kinds(&b, &a)),
        (Seeds::Scores(_), Seeds::Ranks(_)) => Err(of_two_kinds(&a, &b)),
    }
}

/// The usual metrics of two runs with the same held-out items, user by user.
fn compare_ranks(
    args: &CompareArgs,
    (a, ours): (&Side, &[UserRanks]),
    (b, theirs): (&Side, &[UserRanks]),
) -> Result<()> {
    a.refuse_other_data(b)?;
    let of_kind = |seeds: &[UserRanks]| -> Result<Vec<UserRanks>> {
        let own = |seed: &UserRanks| args.kind.as_ref().map_or_else(|| Ok(seed.clone()), |kind| seed.of_kind(kind));
        seeds.iter().map(own).collect()
    };
    let (ours, theirs) = (of_kind(ours)?, of_kind(theirs)?);
    let (of_a, of_b) = (a.ranks(&ours, args.protocol)?, b.ranks(&theirs, args.protocol)?);
    let metrics = eval::compare(&ours[0].test_users, &of_a, &of_b);
    if args.json {
        let figures = json!({"protocol": args.protocol.to_string(), "kind": args.kind, "metrics": metrics});
        return print_json((a, b), (PRIMARY, eval::significance::RESAMPLES), figures);
    }
    let slice = Slice { protocol: args.protocol, kind: args.kind.clone() };
    say(heading(a, b, &slice.title()))?;
    say(comparison_table(&metrics))?;
    let primary = metrics.iter().find(|metric| metric.mean.metric == PRIMARY).expect("it is one of the figures");
    let words = format!("{} {}", verdict(&primary.mean), of_users(primary));
    say(format!("\n{words}\n\n{}", coverage(PRIMARY, ours.len(), theirs.len())))
}

/// AUC and GAUC of two runs on the same lists.
fn compare_lists(
    args: &CompareArgs,
    (a, ours): (&Side, &[TestScores]),
    (b, theirs): (&Side, &[TestScores]),
) -> Result<()> {
    a.refuse_other_data(b)?;
    if args.kind.is_some() {
        let problem = format!("{} holds scores of lists, whose events have no kinds", a.folder.display());
        return Err(Error::usage(problem, "leave --kind out"));
    }
    if args.protocol != Protocol::default() {
        let problem = format!("{} holds scores of lists, and no ranks under {}", a.folder.display(), args.protocol);
        return Err(Error::usage(problem, "leave --protocol away; it is for models that rank items"));
    }
    let TestScores { users, length, clicked, .. } = &ours[0];
    let [ours, theirs] = [ours, theirs].map(|seeds| seeds.iter().map(|seed| &seed.scores[..]).collect::<Vec<_>>());
    let metrics = eval::compare_clicks(Shown { users, length: *length, clicked }, &ours, &theirs)?;
    let primary = &metrics[0];
    if args.json {
        let figures = json!({"protocol": Protocol::Impressions.to_string(), "metrics": metrics});
        return print_json((a, b), (primary.metric, eval::compare_clicks::RESAMPLES), figures);
    }
    say(heading(a, b, Protocol::Impressions.title()))?;
    let header = ["metric", "A", "B", "A - B", "relative", "95 % interval", "p boot."];
    say(table(&header, metrics.iter().map(of_means), 1))?;
    say(format!("\n{}\n\n{}", verdict(primary), coverage(primary.metric, a.seeds.len(), b.seeds.len())))
}

fn of_two_kinds(of_lists: &Side, of_items: &Side) -> Error {
    let (lists, items) = (of_lists.folder.display(), of_items.folder.display());
    let problem = format!("{lists} holds scores of lists, {items} ranks of items");
    Error::usage(problem, "compare runs that were judged alike; `gpurec report` puts others side by side")
}

fn print_json((a, b): (&Side, &Side), (primary, resamples): (&str, u32), figures: serde_json::Value) -> Result<()> {
    let mut json = json!({
        "a": a.folder.display().to_string(), "b": b.folder.display().to_string(), "dataset": a.data[0].dataset, "users": a.data[0].users,
        "seeds": {"a": a.seeds.len(), "b": b.seeds.len()}, "primary": primary, "resamples": resamples,
    });
    let all = json.as_object_mut().expect("an object");
    all.extend(figures.as_object().expect("an object").clone());
    say(serde_json::to_string_pretty(&json).expect("numbers and strings serialise"))
}

fn heading(a: &Side, b: &Side, protocol: &str) -> String {
    let DataIdentity { dataset, users, .. } = &a.data[0];
    format!(
        "A     {a}\nB     {b}\ndata  {dataset}, {} users; test, {protocol}\n",
        grouped(*users),
        a = a.title(),
        b = b.title()
    )
}

/// One of the two.
struct Side {
    folder: PathBuf,
    /// One for each division of the sessions, where each seed drew its own.
    data: Vec<DataIdentity>,
    seeds: Seeds,
}

/// What each seed was judged by.
enum Seeds {
    Ranks(Vec<UserRanks>),
    Scores(Vec<TestScores>),
}

impl Seeds {
    fn len(&self) -> usize {
        match self {
            Seeds::Ranks(seeds) => seeds.len(),
            Seeds::Scores(seeds) => seeds.len(),
        }
    }
}

impl Side {
    /// From the folder of a run, or of folders `seedN`, which must be seeds of one run.
    fn read(folder: &Path) -> Result<Side> {
        let runs = of_seeds(folder);
        if runs.len() > 1 {
            refuse_different(&runs.iter().cloned().map(FinishedRun::read).collect::<Result<Vec<_>>>()?)?;
        }
        let (mut data, seeds): (Vec<DataIdentity>, Seeds) = if ListScores::path(&runs[0]).exists() {
            let read =
                runs.iter().map(|run| ListScores::read_test(&ListScores::path(run))).collect::<Result<Vec<_>>>()?;
            let (data, seeds) = read.into_iter().unzip();
            (data, Seeds::Scores(seeds))
        } else {
            let read = runs.iter().map(|run| read_ranks(run)).collect::<Result<Vec<_>>>()?;
            let (data, seeds): (Vec<DataIdentity>, Vec<UserRanks>) = read.into_iter().unzip();
            let anew = data.iter().any(|own| own.split != data[0].split);
            let seeds = if anew { vec![pooled(&seeds, data[0].users)] } else { seeds };
            (data, Seeds::Ranks(seeds))
        };
        data.dedup_by(|a, b| a.split == b.split);
        Ok(Side { folder: folder.into(), data, seeds })
    }

    fn refuse_other_data(&self, other: &Side) -> Result<()> {
        if self.data.len() != other.data.len() {
            let (ours, theirs) = (self.folder.display(), other.folder.display());
            let problem = format!(
                "{ours} and {theirs} held out other sessions: {} divisions and {}",
                self.data.len(),
                other.data.len()
            );
            return Err(Error::usage(problem, "compare runs of the same seeds, or name their folders seed by seed"));
        }
        let mut pairs = self.data.iter().zip(&other.data);
        pairs.try_for_each(|(ours, theirs)| refuse_difference((&self.folder, ours), (&other.folder, theirs)))
    }

    /// Of each seed.
    fn ranks<'a>(&self, seeds: &'a [UserRanks], protocol: Protocol) -> Result<Vec<&'a [u32]>> {
        let missing = || {
            let problem = format!("{} has no ranks under {protocol}", self.folder.display());
            let command = "gpurec eval --checkpoint RUN --ranks RUN/ranks.safetensors";
            Error::usage(problem, format!("`{command}` makes the ranks of an older run again"))
        };
        let of_seeds = seeds.iter().map(|seed| seed.test.get(protocol).map(Vec::as_slice));
        of_seeds.map(|ranks| ranks.ok_or_else(missing)).collect()
    }

    fn title(&self) -> String {
        let seeds = match (self.data.len(), self.seeds.len()) {
            (1, 1) => String::new(),
            (1, seeds) => format!(", mean of {seeds} seeds"),
            (divisions, _) => format!(", the held-out sessions of {divisions} seeds"),
        };
        format!("{}{seeds}", self.folder.display())
    }
}

/// The test events of seeds that each drew its own sessions, users under a number for each seed.
fn pooled(seeds: &[UserRanks], users: usize) -> UserRanks {
    let mut all = UserRanks { kind_names: seeds[0].kind_names.clone(), ..UserRanks::default() };
    for (first, seed) in (0..).step_by(users).zip(seeds) {
        all.test_users.extend(seed.test_users.iter().map(|user| first + user));
        all.test_kinds.extend(&seed.test_kinds);
        for (protocol, ranks) in seed.test.iter() {
            let known = all.test.get(protocol).cloned().unwrap_or_default();
            all.test.insert(protocol, [known, ranks.clone()].concat());
        }
    }
    all
}

/// Of one run.
fn read_ranks(run: &Path) -> Result<(DataIdentity, UserRanks)> {
    let path = UserRanks::path(run);
    if path.exists() { UserRanks::read(&path) } else { Err(no_ranks(run)) }
}

fn refuse_difference((a, ours): (&Path, &DataIdentity), (b, theirs): (&Path, &DataIdentity)) -> Result<()> {
    let Some(difference) = ours.difference(theirs) else { return Ok(()) };
    let problem = format!(
        "{} (on {}) and {} (on {}) cannot be compared user by user: they differ in {difference}",
        a.display(),
        ours.dataset,
        b.display(),
        theirs.dataset
    );
    Err(Error::usage(problem, "compare runs on the same file with the same split"))
}

fn comparison_table(metrics: &[MetricComparison]) -> comfy_table::Table {
    let header =
        ["metric", "A", "B", "A - B", "relative", "95 % interval", "p boot.", "p Wilcoxon", "better / worse / equal"];
    let rows = metrics.iter().map(|m| {
        let of_users =
            [probability(m.wilcoxon.p), format!("{} / {} / {}", grouped(m.better), grouped(m.worse), grouped(m.equal))];
        of_means(&m.mean).into_iter().chain(of_users)
    });
    table(&header, rows, 1)
}

/// The first cells of a row.
fn of_means(m: &Difference) -> [String; 7] {
    [
        m.metric.to_uppercase(),
        with_deviation(&m.a),
        with_deviation(&m.b),
        format!("{:+.4}", m.difference),
        m.relative.map_or("-".into(), percent),
        interval(m.bootstrap.interval),
        probability(m.bootstrap.p),
    ]
}

/// What the primary metric says.
fn verdict(m: &Difference) -> String {
    let metric = m.metric.to_uppercase();
    let relative = m.relative.map_or(String::new(), |relative| format!(", {}", percent(relative)));
    let figures = format!(
        "{metric} {:.4} of A against {:.4} of B, difference {:+.4}{relative} (95 % interval {}; bootstrap p {})",
        m.a.mean,
        m.b.mean,
        m.difference,
        interval(m.bootstrap.interval),
        probability(m.bootstrap.p),
    );
    match (m.tells_apart(), m.difference > 0.0) {
        (true, true) => format!("A is better than B: {figures}."),
        (true, false) => format!("B is better than A: {figures}."),
        (false, _) => format!("The data do not tell A and B apart: {figures}."),
    }
}

/// What single users say, and whether it is the same.
fn of_users(m: &MetricComparison) -> String {
    let users = format!(
        "A serves {} users better, {} worse and {} equally well (Wilcoxon p {}, rank-biserial effect {:+.3}).",
        grouped(m.better),
        grouped(m.worse),
        grouped(m.equal),
        probability(m.wilcoxon.p),
        m.wilcoxon.effect
    );
    let sign = |found: bool, of: f64| if found { of.signum() } else { 0.0 };
    let agree = sign(m.mean.tells_apart(), m.mean.difference) == sign(m.wilcoxon.p < 0.05, m.wilcoxon.effect);
    let disagree = if agree { "" } else { " The two tests do not agree; take neither for proof." };
    format!("{users}{disagree}")
}

/// What these figures speak of, and what not.
fn coverage(primary: &str, a: usize, b: usize) -> String {
    let seeds = match (a, b) {
        (1, 1) => {
            "Each run is one training: how much another seed would change is not covered; `gpurec run --seeds 5` shows it."
        }
        _ => {
            "Figures are means over the seeds of a run; ± is the standard deviation over seeds, and the interval \
             does not cover it: it holds for these trained models."
        }
    };
    format!(
        "Sampled units are the users: interval and p say how the difference would vary with other users of the same kind.\n\
         {seeds}\n\
         The verdict is about {}; the other metrics are not corrected for being several.",
        primary.to_uppercase()
    )
}

fn percent(share: f64) -> String {
    format!("{:+.1} %", 100.0 * share)
}

fn interval([low, high]: [f64; 2]) -> String {
    format!("{low:+.4} to {high:+.4}")
}

fn probability(p: f64) -> String {
    if p < 0.001 { "< 0.001".into() } else { format!("{p:.3}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of NDCG@10.
    fn words(a: &[u32], b: &[u32]) -> String {
        let users: Vec<u32> = (0..a.len() as u32).collect();
        let ndcg10 = &eval::compare(&users, &[a], &[b])[4];
        format!("{} {}", verdict(&ndcg10.mean), of_users(ndcg10))
    }

    #[test]
    fn the_verdict_names_the_better_run_or_says_that_there_is_none() {
        let (good, bad): (Vec<u32>, Vec<u32>) = (0..300u32).map(|u| (1 + u % 4, 1 + u % 30)).unzip();
        assert!(words(&good, &bad).starts_with("A is better than B: NDCG@10 0.6"));
        assert!(words(&bad, &good).starts_with("B is better than A: NDCG@10 0.1"));
        let same = words(&good, &good);
        assert!(same.starts_with("The data do not tell A and B apart") && same.contains("300 equally well"), "{same}");
    }

    #[test]
    fn tests_that_disagree_are_not_hidden() {
        // Many users gain a little and a few lose all: the mean does not move, the ranks of the differences do.
        let (a, b): (Vec<u32>, Vec<u32>) = (0..100).map(|u| if u % 20 == 0 { (50, 1) } else { (6, 8) }).unzip();
        assert!(words(&a, &b).contains("do not agree"), "{}", words(&a, &b));
        // With more of these the mean speaks for B, the ranks still for A.
        let (a, b): (Vec<u32>, Vec<u32>) = (0..600).map(|u| if u % 10 == 0 { (50, 1) } else { (6, 8) }).unzip();
        let opposed = words(&a, &b);
        assert!(opposed.starts_with("B is better") && opposed.contains("do not agree"), "{opposed}");
        assert!(!words(&a, &a).contains("do not agree"));
    }
}
