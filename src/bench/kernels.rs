//! What `gpurec bench` can measure: for each kernel its sizes, their defaults, and the graph that runs it.

use super::measure::Work;
use crate::engine::graph::ValueId;
use crate::engine::params::{Init, ParamLayout};
use crate::engine::rng::{RngState, Site};
use crate::engine::{Feed, Graph, Tensor, TensorType};
use crate::error::{Error, Result};
use crate::ops::adam::{Adam, AdamConfig, hyper};
use crate::ops::attention::Attention;
use crate::ops::dropout::Dropout;
use crate::ops::embedding::Embedding;
use crate::ops::fill::Fill;
use crate::ops::gru::{Gru, Reset};
use crate::ops::info_nce::{Similarity, info_nce};
use crate::ops::layer_norm::LayerNorm;
use crate::ops::linear::Linear;
use crate::ops::linear_cross_entropy::LinearCrossEntropy;
use crate::ops::linear_kl_div::LinearKlDiv;
use crate::ops::linear_topk::LinearTopK;
use crate::ops::matmul::Matmul;
use crate::ops::rank::Rank;
use crate::ops::reshape::Reshape;
use crate::ops::scale::Scale;
use crate::ops::segments::segments;
use crate::ops::softmax::Softmax;

/// A size that a flag of the command sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Size {
    /// Sequences.
    Batch,
    /// Positions of a sequence.
    Steps,
    /// Heads of attention.
    Heads,
    /// Tokens, queries or representations.
    Rows,
    /// Columns; of one head for attention.
    Dim,
    /// Columns of the output.
    Hidden,
    /// Items in the catalogue.
    Items,
}

impl Size {
    /// In the order of their flags.
    pub const ALL: [Size; 7] =
        [Size::Batch, Size::Steps, Size::Heads, Size::Rows, Size::Dim, Size::Hidden, Size::Items];

    /// Its name in shapes, and of its flag.
    pub fn name(self) -> &'static str {
        match self {
            Size::Batch => "batch",
            Size::Steps => "steps",
            Size::Heads => "heads",
            Size::Rows => "rows",
            Size::Dim => "dim",
            Size::Hidden => "hidden",
            Size::Items => "items",
        }
    }
}

/// The sizes of one measurement, in the kernel's order.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape(Vec<(Size, usize)>);

impl Shape {
    fn of(&self, size: Size) -> usize {
        self.0.iter().find(|(s, _)| *s == size).expect("the kernel lists its sizes").1
    }

    fn all<const N: usize>(&self, sizes: [Size; N]) -> [usize; N] {
        sizes.map(|size| self.of(size))
    }
}

/// `rows=2048 dim=64 items=12101`
impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts: Vec<String> = self.0.iter().map(|(size, n)| format!("{}={n}", size.name())).collect();
        f.write_str(&parts.join(" "))
    }
}

/// A kernel that can be measured, with its sizes.
pub struct BenchKernel {
    /// What the command line calls it.
    pub name: &'static str,
    sizes: &'static [Size],
    defaults: &'static [&'static [usize]],
    /// Whether there is a gradient to measure.
    pub differentiable: bool,
    build: fn(&Shape, bool) -> Result<Work>,
}

impl BenchKernel {
    /// The default shapes, smaller when `quick`; or the first of them with what the user gave, in full.
    pub fn shapes(&self, given: &[(Size, usize)], quick: bool) -> Result<Vec<Shape>> {
        if let Some((stranger, _)) = given.iter().find(|(size, _)| !self.sizes.contains(size)) {
            let known: Vec<String> = self.sizes.iter().map(|size| format!("--{}", size.name())).collect();
            let problem = format!("{} has no size --{}", self.name, stranger.name());
            return Err(Error::usage(problem, format!("its sizes: {}", known.join(" "))));
        }
        let shape = |values: &[usize]| {
            let sizes = self.sizes.iter().zip(values).map(|(&size, &default)| {
                let own = given.iter().find(|(s, _)| *s == size).map(|(_, n)| *n);
                let smaller = quick && matches!(size, Size::Batch | Size::Rows | Size::Items);
                (size, own.unwrap_or(if smaller { default.div_ceil(8) } else { default }))
            });
            Shape(sizes.collect())
        };
        match given {
            [] => Ok(self.defaults.iter().map(|values| shape(values)).collect()),
            _ => Ok(vec![shape(self.defaults[0])]),
        }
    }

    /// The graph of the kernel, with its gradient when `backward`.
    pub fn work(&self, shape: &Shape, backward: bool) -> Result<Work> {
        (self.build)(shape, backward)
    }
}

use Size::{Batch, Dim, Heads, Hidden, Items, Rows, Steps};

/// The defaults are the shapes of SASRec on Amazon Beauty, of wider models, and of larger catalogues.
pub const KERNELS: &[BenchKernel] = &[
    BenchKernel {
        name: "attention",
        sizes: &[Batch, Heads, Steps, Dim],
        defaults: &[&[256, 2, 50, 32], &[64, 4, 200, 64]],
        differentiable: true,
        build: |shape, backward| attention(shape, None, backward),
    },
    BenchKernel {
        name: "attention-dropout",
        sizes: &[Batch, Heads, Steps, Dim],
        defaults: &[&[256, 2, 50, 32], &[64, 4, 200, 64]],
        differentiable: true,
        build: |shape, backward| attention(shape, Some(DROPOUT), backward),
    },
    BenchKernel {
        name: "attention-unfused",
        sizes: &[Batch, Heads, Steps, Dim],
        defaults: &[&[256, 2, 50, 32], &[64, 4, 200, 64]],
        differentiable: true,
        build: attention_unfused,
    },
    BenchKernel {
        name: "softmax-ce",
        sizes: &[Rows, Dim, Items],
        defaults: &[&[2048, 64, 12_101], &[2048, 64, 70_852], &[4096, 256, 12_101]],
        differentiable: true,
        build: softmax_ce,
    },
    BenchKernel {
        name: "kl-div",
        sizes: &[Rows, Dim, Items],
        defaults: &[&[1024, 256, 12_101], &[1024, 256, 36_098]],
        differentiable: true,
        build: kl_div,
    },
    BenchKernel {
        name: "info-nce",
        sizes: &[Rows, Dim],
        defaults: &[&[512, 64], &[4096, 256]],
        differentiable: true,
        build: info_nce_pairs,
    },
    BenchKernel {
        name: "gru",
        sizes: &[Batch, Steps, Dim, Hidden],
        defaults: &[&[256, 50, 64, 64], &[256, 50, 64, 256]],
        differentiable: true,
        build: gru,
    },
    BenchKernel {
        name: "linear",
        sizes: &[Rows, Dim, Hidden],
        defaults: &[&[12_800, 64, 64], &[12_800, 256, 256]],
        differentiable: true,
        build: linear,
    },
    BenchKernel {
        name: "layer-norm",
        sizes: &[Rows, Dim],
        defaults: &[&[12_800, 64], &[12_800, 256]],
        differentiable: true,
        build: layer_norm,
    },
    BenchKernel {
        name: "embedding",
        sizes: &[Rows, Dim, Items],
        defaults: &[&[12_800, 64, 12_102], &[12_800, 256, 70_853]],
        differentiable: true,
        build: embedding,
    },
    BenchKernel {
        name: "adam",
        sizes: &[Dim, Items],
        defaults: &[&[64, 12_101], &[256, 70_852]],
        differentiable: false,
        build: adam,
    },
    BenchKernel {
        name: "topk",
        sizes: &[Rows, Dim, Items],
        defaults: &[&[256, 64, 12_101], &[256, 64, 70_852]],
        differentiable: false,
        build: topk,
    },
    BenchKernel {
        name: "rank",
        sizes: &[Rows, Dim, Items],
        defaults: &[&[2048, 64, 12_101], &[2048, 64, 70_852]],
        differentiable: false,
        build: rank,
    },
];

/// A parameter of standard normals times `scale`.
fn normal<const N: usize>(graph: &mut Graph, name: &str, shape: [usize; N], scale: f32) -> ValueId {
    graph.param(name, &shape, Init::Normal(scale))
}

/// `n` ids below `bound`, low ones far more often than high ones, as in data: Zipf's law with exponent 1.
fn popular_ids(n: usize, bound: usize) -> Vec<u32> {
    let mut stream = RngState { seed: 11, step: 0 }.stream(Site(0), 0);
    (0..n).map(|_| (((bound + 1) as f64).powf(f64::from(stream.uniform())) as u32 - 1).min(bound as u32 - 1)).collect()
}

fn ids_input(graph: &mut Graph, feed: &mut Feed, name: &str, ids: &[u32]) -> ValueId {
    feed.set(name, Tensor::u32(&[ids.len()], ids));
    graph.input(name, TensorType::u32(&[ids.len()]))
}

/// As SASRec trains.
const DROPOUT: Dropout = Dropout { probability: 0.2, site: Site(7) };

/// The random state and the (sequence, position) of rows in sequences of one length.
fn random_inputs(graph: &mut Graph, feed: &mut Feed, rows: usize, steps: usize) -> [ValueId; 2] {
    let rng = ids_input(graph, feed, "rng", &RngState { seed: 11, step: 1 }.words());
    let keys: Vec<u32> = (0..rows).flat_map(|row| [(row / steps) as u32, (row % steps) as u32]).collect();
    feed.set("row_keys", Tensor::u32(&[rows, 2], &keys));
    [rng, graph.input("row_keys", TensorType::u32(&[rows, 2]))]
}

/// Causal, sequences of one length; `dim` columns per head.
fn attention(shape: &Shape, dropout: Option<Dropout>, backward: bool) -> Result<Work> {
    let [batch, heads, steps, dim] = shape.all([Batch, Heads, Steps, Dim]);
    let (mut graph, mut feed) = (Graph::new(ParamLayout::default()), Feed::default());
    let [q, k, v, dy] = ["q", "k", "v", "dy"].map(|name| normal(&mut graph, name, [batch * steps, heads * dim], 1.0));
    let starts: Vec<u32> = (0..=batch).map(|i| (i * steps) as u32).collect();
    let mut inputs = vec![q, k, v, ids_input(&mut graph, &mut feed, "cu_seqlens", &starts)];
    if dropout.is_some() {
        inputs.extend(random_inputs(&mut graph, &mut feed, batch * steps, steps));
    }
    let op = Attention { heads, scale: (dim as f64).powf(-0.5), causal: true, dropout, key_flags: false };
    let y = graph.add1(op, &inputs)?;
    let work = Work::new(graph, feed, vec![y]);
    if backward { work.with_gradients(y, dy, &[q, k, v]) } else { Ok(work) }
}

/// `attention-dropout` from separate kernels, all scores of all heads between them. Two steps of a real one are left out,
/// to its advantage: the causal mask, and bringing the heads together, which are sequences of their own here.
fn attention_unfused(shape: &Shape, backward: bool) -> Result<Work> {
    let [batch, heads, steps, dim] = shape.all([Batch, Heads, Steps, Dim]);
    let (mut graph, mut feed, sequences) = (Graph::new(ParamLayout::default()), Feed::default(), batch * heads);
    let [q, k, v, dy] = ["q", "k", "v", "dy"].map(|name| normal(&mut graph, name, [sequences, steps, dim], 1.0));
    let [rng, keys] = random_inputs(&mut graph, &mut feed, sequences * steps, steps);
    let scaled = graph.add1(Scale { factor: (dim as f64).powf(-0.5) }, &[q])?;
    let scores = graph.add1(Matmul::NT, &[scaled, k])?;
    let p = graph.add1(Softmax::Plain, &[scores])?;
    let rows = graph.add1(Reshape { shape: vec![sequences * steps, steps] }, &[p])?;
    let Dropout { probability, site } = DROPOUT;
    let dropped = graph.add1(Dropout { probability, site }, &[rows, rng, keys])?;
    let dropped = graph.add1(Reshape { shape: vec![sequences, steps, steps] }, &[dropped])?;
    let y = graph.add1(Matmul::NN, &[dropped, v])?;
    let work = Work::new(graph, feed, vec![y]);
    if backward { work.with_gradients(y, dy, &[q, k, v]) } else { Ok(work) }
}

/// Mean over the rows, every row with a target.
fn softmax_ce(shape: &Shape, backward: bool) -> Result<Work> {
    let [rows, dim, items] = shape.all([Rows, Dim, Items]);
    let (mut graph, mut feed) = (Graph::new(ParamLayout::default()), Feed::default());
    let hidden = normal(&mut graph, "hidden", [rows, dim], 0.5);
    let table = normal(&mut graph, "table", [items, dim], 0.1);
    let target = ids_input(&mut graph, &mut feed, "target", &popular_ids(rows, items));
    let loss = graph.add1(LinearCrossEntropy::default(), &[hidden, table, target])?;
    let weight = graph.add1(Fill { value: 1.0 / rows as f32, shape: vec![rows] }, &[])?;
    let work = Work::new(graph, feed, vec![loss]);
    if backward { work.with_gradients(loss, weight, &[hidden, table]) } else { Ok(work) }
}

/// Scores of a student against those of one teacher, mean over the rows.
fn kl_div(shape: &Shape, backward: bool) -> Result<Work> {
    let [rows, dim, items] = shape.all([Rows, Dim, Items]);
    let mut graph = Graph::new(ParamLayout::default());
    let [hidden, teacher] = ["hidden", "teacher"].map(|name| normal(&mut graph, name, [rows, dim], 0.5));
    let [table, taught] = ["table", "teacher_table"].map(|name| normal(&mut graph, name, [items, dim], 0.1));
    let loss = graph.add1(LinearKlDiv::default(), &[hidden, table, teacher, taught])?;
    let weight = graph.add1(Fill { value: 1.0 / rows as f32, shape: vec![rows] }, &[])?;
    let work = Work::new(graph, Feed::default(), vec![loss]);
    if backward { work.with_gradients(loss, weight, &[hidden, table]) } else { Ok(work) }
}

/// `rows` representations, two of each pair, by cosine, temperature 0.2.
fn info_nce_pairs(shape: &Shape, backward: bool) -> Result<Work> {
    let [rows, dim] = shape.all([Rows, Dim]);
    let mut graph = Graph::new(ParamLayout::default());
    let z = normal(&mut graph, "z", [rows, dim], 1.0);
    let [loss, _] = info_nce(&mut graph, z, Similarity::Cosine, 0.2)?;
    let one = graph.add1(Fill { value: 1.0, shape: vec![1] }, &[])?;
    let work = Work::new(graph, Feed::default(), vec![loss]);
    if backward { work.with_gradients(loss, one, &[z]) } else { Ok(work) }
}

/// Sequences of one length from states of zero, the products of the inputs before it; PyTorch's cell.
fn gru(shape: &Shape, backward: bool) -> Result<Work> {
    let [batch, steps, dim, hidden] = shape.all([Batch, Steps, Dim, Hidden]);
    let (mut graph, mut feed) = (Graph::new(ParamLayout::default()), Feed::default());
    let x = normal(&mut graph, "x", [batch * steps, dim], 1.0);
    let of_input = normal(&mut graph, "of_input", [3 * hidden, dim], 0.1);
    let of_state = normal(&mut graph, "of_state", [3 * hidden, hidden], 0.1);
    let [input_bias, state_bias] = ["input_bias", "state_bias"].map(|name| normal(&mut graph, name, [3 * hidden], 0.1));
    let dy = normal(&mut graph, "dy", [batch * steps, hidden], 1.0);
    let starts: Vec<u32> = (0..=batch).map(|i| (i * steps) as u32).collect();
    let borders = ids_input(&mut graph, &mut feed, "cu_seqlens", &starts);
    let start = graph.add1(Fill { value: 0.0, shape: vec![batch, hidden] }, &[])?;
    let products = graph.add1(Linear::default(), &[x, of_input, input_bias])?;
    let y = graph.add1(Gru { reset: Reset::After }, &[products, start, borders, of_state, state_bias])?;
    let work = Work::new(graph, feed, vec![y]);
    let wrt = [x, of_input, input_bias, of_state, state_bias];
    if backward { work.with_gradients(y, dy, &wrt) } else { Ok(work) }
}

/// From `dim` to `hidden` columns, with a bias.
fn linear(shape: &Shape, backward: bool) -> Result<Work> {
    let [rows, dim, hidden] = shape.all([Rows, Dim, Hidden]);
    let mut graph = Graph::new(ParamLayout::default());
    let x = normal(&mut graph, "x", [rows, dim], 1.0);
    let weight = normal(&mut graph, "weight", [hidden, dim], 0.1);
    let bias = normal(&mut graph, "bias", [hidden], 0.1);
    let dy = normal(&mut graph, "dy", [rows, hidden], 1.0);
    let y = graph.add1(Linear::default(), &[x, weight, bias])?;
    let work = Work::new(graph, Feed::default(), vec![y]);
    if backward { work.with_gradients(y, dy, &[x, weight, bias]) } else { Ok(work) }
}

fn layer_norm(shape: &Shape, backward: bool) -> Result<Work> {
    let [rows, dim] = shape.all([Rows, Dim]);
    let mut graph = Graph::new(ParamLayout::default());
    let [x, dy] = ["x", "dy"].map(|name| normal(&mut graph, name, [rows, dim], 1.0));
    let [weight, bias] = ["weight", "bias"].map(|name| normal(&mut graph, name, [dim], 1.0));
    let y = graph.add1(LayerNorm::plain(1e-5), &[x, weight, bias])?;
    let work = Work::new(graph, Feed::default(), vec![y]);
    if backward { work.with_gradients(y, dy, &[x, weight, bias]) } else { Ok(work) }
}

/// Gather of popular items; the gradient writes the whole table.
fn embedding(shape: &Shape, backward: bool) -> Result<Work> {
    let [rows, dim, items] = shape.all([Rows, Dim, Items]);
    let (mut graph, mut feed) = (Graph::new(ParamLayout::default()), Feed::default());
    let table = normal(&mut graph, "table", [items, dim], 1.0);
    let dy = normal(&mut graph, "dy", [rows, dim], 1.0);
    let ids = popular_ids(rows, items);
    let grouped = segments(&ids, None);
    let ids = ids_input(&mut graph, &mut feed, "ids", &ids);
    let by_item = graph.input("segments", grouped.ty.clone());
    feed.set("segments", grouped);
    let y = graph.add1(Embedding { padding_idx: None }, &[table, ids, by_item])?;
    let work = Work::new(graph, feed, vec![y]);
    if backward { work.with_gradients(y, dy, &[table]) } else { Ok(work) }
}

/// One step over a table of `items` x `dim`.
fn adam(shape: &Shape, _backward: bool) -> Result<Work> {
    let [dim, items] = shape.all([Dim, Items]);
    let (mut graph, mut feed) = (Graph::new(ParamLayout::default()), Feed::default());
    normal(&mut graph, "table", [items, dim], 1.0);
    // Values of a whole set need its final size, so the clock's parameter is declared first.
    graph.param("tick", &[1], Init::Constant(1.0));
    let [params, grads, m, v] = Work::flats(&mut graph);
    feed.set("hyper", hyper(&AdamConfig::default(), 1));
    let hyper = graph.input("hyper", TensorType::f32(&[8]));
    graph.add(Adam, &[params, grads, m, v, hyper])?;
    Ok(Work::new(graph, feed, Vec::new()))
}

/// Scores of `rows` queries against a catalogue, and the best 20.
fn topk(shape: &Shape, _backward: bool) -> Result<Work> {
    let [rows, dim, items] = shape.all([Rows, Dim, Items]);
    let mut graph = Graph::new(ParamLayout::default());
    let hidden = normal(&mut graph, "hidden", [rows, dim], 1.0);
    let table = normal(&mut graph, "table", [items, dim], 1.0);
    let best = graph.add(LinearTopK { k: 20, items: None, exclude: false }, &[hidden, table])?;
    Ok(Work::new(graph, Feed::default(), best))
}

/// The rank of one item per query, with histories of 10 items.
fn rank(shape: &Shape, _backward: bool) -> Result<Work> {
    const HISTORY: usize = 10;
    let [rows, dim, items] = shape.all([Rows, Dim, Items]);
    let (mut graph, mut feed) = (Graph::new(ParamLayout::default()), Feed::default());
    let hidden = normal(&mut graph, "hidden", [rows, dim], 1.0);
    let table = normal(&mut graph, "table", [items, dim], 1.0);
    let target = ids_input(&mut graph, &mut feed, "target", &popular_ids(rows, items));
    let offsets: Vec<u32> = (0..=rows).map(|row| (row * HISTORY) as u32).collect();
    let step = items.div_ceil(HISTORY).max(1);
    let seen: Vec<u32> = (0..rows * HISTORY).map(|i| (i % HISTORY * step).min(items - 1) as u32).collect();
    let offsets = ids_input(&mut graph, &mut feed, "offsets", &offsets);
    let seen = ids_input(&mut graph, &mut feed, "seen", &seen);
    let ranks = graph.add(Rank { items: None }, &[hidden, table, target, offsets, seen])?;
    Ok(Work::new(graph, feed, ranks))
}
