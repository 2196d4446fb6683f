//! `gpurec export`: a trained model as plain tables, with worked examples, for services that do not run gpurec.

use super::DeviceArgs;
use super::console::{grouped, say};
use super::histories::Histories;
use super::source::SourceArgs;
use crate::engine::params::{ParamLayout, Parameter, State};
use crate::engine::rng::{RngState, Site};
use crate::engine::{Executor, Tensor};
use crate::error::{Error, Result};
use crate::files::write_atomically;
use crate::train::run::config_text;
use crate::train::{Identity, ItemTable, Ranker, Request, Trained};
use safetensors::tensor::{Dtype, TensorView};
use serde::Serialize;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  gpurec export --checkpoint runs/lma4rec-kuairec-seed1 --out exported
  gpurec export --checkpoint runs/mine --out exported --queries histories.csv --skip-unknown

exported/README.md says how to score with the files; exported/topk_example.py does it, with numpy alone.";

const README: &str = include_str!("export/README.md");
const TOPK_EXAMPLE: &str = include_str!("export/topk_example.py");

/// Lengths of the histories of the examples, and of their lists.
const HISTORIES: [usize; 8] = [1, 2, 3, 5, 8, 13, 21, 34];
const TOP: usize = 10;
const EXAMPLE_HISTORY: Site = Site(0xE7A3);

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ExportArgs {
    /// The folder of a run, or a checkpoint file
    #[arg(long, value_name = "DIR")]
    checkpoint: PathBuf,

    /// The folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Write the query vector of each user of this file of histories too: a service then needs no encoder
    #[arg(long, value_name = "FILE")]
    queries: Option<PathBuf>,

    /// Leave out items of --queries that the model does not know, and count them
    #[arg(long, requires = "queries")]
    skip_unknown: bool,

    #[command(flatten)]
    source: SourceArgs,

    #[command(flatten)]
    device: DeviceArgs,
}

/// One entry of `examples.json`; its query is the row of the same number in `examples.safetensors`.
#[derive(Serialize)]
struct Example<'a> {
    history: Vec<&'a str>,
    items: Vec<&'a str>,
    scores: Vec<f32>,
}

pub fn export(args: &ExportArgs) -> Result<()> {
    let out = &args.out;
    if out.exists() && (!out.is_dir() || std::fs::read_dir(out).is_ok_and(|mut files| files.next().is_some())) {
        return Err(Error::usage(format!("{} exists already", out.display()), "choose another --out, or remove it"));
    }
    let trained = Trained::open(&args.checkpoint)?;
    let read = |file: &PathBuf| Histories::read(file, &args.source, &trained.items, args.skip_unknown);
    let histories = args.queries.as_ref().map(read).transpose()?;
    let mut executor = args.device.open()?;
    let mut ranker = trained.ranker(executor.as_mut())?;
    let queries = histories.as_ref().map(|all| ranker.queries(executor.as_mut(), &all.requests())).transpose()?;

    // Whatever can be refused is refused before anything is written.
    let ItemTable { table, bias } = ranker.item_table(executor.as_mut(), trained.items.len())?;
    let (examples, example_queries) = examples(&trained, &mut ranker, executor.as_mut())?;
    let (layout, state) = trained.parameters()?;
    let items = lines(&trained.items, "items.txt")?;
    let users = histories.as_ref().map(|all| lines(&all.users, "users.txt")).transpose()?;

    let tensors = [("table", &table)].into_iter().chain(bias.iter().map(|bias| ("bias", bias)));
    write_tensors(&out.join("item_table.safetensors"), tensors.map(named))?;
    write_atomically(&out.join("items.txt"), items.as_bytes())?;
    write_tensors(&out.join("examples.safetensors"), [named(("query", &example_queries))])?;
    write_atomically(&out.join("examples.json"), examples.as_bytes())?;
    write_tensors(&out.join("model.safetensors"), parameters(&layout, &state))?;
    let Identity { method, config, seed, data, .. } = &trained.identity;
    let config = config_text(method, &data.dataset, &data.source, *seed, config);
    write_atomically(&out.join("config.toml"), config.as_bytes())?;
    write_atomically(&out.join("topk_example.py"), TOPK_EXAMPLE.as_bytes())?;
    if let (Some(queries), Some(users)) = (&queries, &users) {
        write_tensors(&out.join("queries.safetensors"), [named(("query", queries))])?;
        write_atomically(&out.join("users.txt"), users.as_bytes())?;
    }
    histories.iter().for_each(|all| all.report_skipped("query"));
    // Last, so that a folder with it is complete.
    write_atomically(&out.join("README.md"), readme(&trained, &table, bias.is_some()).as_bytes())?;
    let users =
        histories.map_or(String::new(), |all| format!(" and the queries of {} users", grouped(all.users.len())));
    let (items, dim) = (grouped(trained.items.len()), table.ty.width());
    say(format!("{items} items of {dim} dimensions{users} written to {0}; see {0}/README.md", out.display()))
}

/// Histories drawn from the catalogue and what the model makes of them: `examples.json`, and the queries.
fn examples(trained: &Trained, ranker: &mut Ranker, executor: &mut dyn Executor) -> Result<(String, Tensor)> {
    let n_items = trained.items.len() as u32;
    let draw = |(number, length): (u32, usize)| -> Vec<u32> {
        let mut stream = RngState { seed: trained.identity.seed, step: 0 }.stream(EXAMPLE_HISTORY, number);
        (0..length).map(|_| stream.below(n_items)).collect()
    };
    let histories: Vec<Vec<u32>> = (0..).zip(HISTORIES).map(draw).collect();
    let users = trained.identity.data.users as u32;
    let user = |number: u32| trained.method.needs_user().then_some(number % users);
    let requests: Vec<Request> =
        (0..).zip(&histories).map(|(number, history)| Request { history, user: user(number) }).collect();
    let lists = ranker.top_k(executor, &requests, TOP.min(n_items as usize), false)?;
    let queries = ranker.queries(executor, &requests)?;
    let names =
        |items: &mut dyn Iterator<Item = u32>| items.map(|item| trained.items[item as usize].as_str()).collect();
    let examples = histories.iter().zip(&lists).map(|(history, list)| Example {
        history: names(&mut history.iter().copied()),
        items: names(&mut list.iter().map(|(item, _)| *item)),
        scores: list.iter().map(|(_, score)| *score).collect(),
    });
    let text = serde_json::to_string_pretty(&examples.collect::<Vec<_>>()).expect("numbers and strings serialise");
    Ok((text + "\n", queries))
}

type NamedTensor<'a> = (String, TensorView<'a>);

fn named<'a>((name, tensor): (&str, &'a Tensor)) -> NamedTensor<'a> {
    (name.into(), view(&tensor.ty.shape, &tensor.words))
}

fn view<'a>(shape: &[usize], words: &'a [f32]) -> TensorView<'a> {
    TensorView::new(Dtype::F32, shape.to_vec(), bytemuck::cast_slice(words)).expect("shape and length agree")
}

/// `SET/NAME` of every parameter.
fn parameters<'a>(layout: &'a ParamLayout, state: &'a State) -> impl Iterator<Item = NamedTensor<'a>> {
    layout.sets.iter().zip(&state.sets).flat_map(|(set, content)| {
        let of = |p: &'a Parameter| view(&p.shape, &content.params[p.range.clone()]);
        set.parameters.iter().map(move |p| (format!("{}/{}", set.name, p.name), of(p)))
    })
}

fn write_tensors<'a>(path: &Path, tensors: impl IntoIterator<Item = NamedTensor<'a>>) -> Result<()> {
    let bytes = safetensors::serialize(tensors, None).expect("names are unique and sizes fit");
    write_atomically(path, &bytes)
}

/// A name a line: refused where a name has several itself.
fn lines(names: &[String], file: &str) -> Result<String> {
    if let Some(name) = names.iter().find(|name| name.contains(['\n', '\r'])) {
        let problem = format!("the name {name:?} has a line end in it, and {file} has a name a line");
        return Err(Error::usage(problem, "rename it in the data"));
    }
    Ok(names.iter().map(|name| format!("{name}\n")).collect())
}

fn readme(trained: &Trained, table: &Tensor, has_bias: bool) -> String {
    let needs_user = "This model has learned a vector for each of the users that it was trained on, and no way to make one \
                      from a history: the vectors are among the parameters in `model.safetensors`, a row per user in the \
                      order of the data set. The queries of the examples are those of the first users; their histories only \
                      say which items to leave out.";
    let history = "The query is what the encoder makes of a history, its last item last. `gpurec export --queries FILE` writes \
                   the queries of all users of a file, so that a service needs no encoder; they follow the histories, so \
                   export again when these have grown.";
    let fields = [
        ("{method}", trained.identity.method.clone()),
        ("{version}", trained.identity.version.clone()),
        ("{items}", trained.items.len().to_string()),
        ("{dim}", table.ty.width().to_string()),
        ("{bias_tensor}", if has_bias { ", `bias [V]`" } else { "" }.into()),
        ("{bias_term}", if has_bias { " + bias[v]" } else { "" }.into()),
        ("{query}", if trained.method.needs_user() { needs_user } else { history }.into()),
    ];
    fields.into_iter().fold(README.into(), |text, (field, value)| text.replace(field, &value))
}
