//! The gated recurrent unit over packed sequences, from inputs that the layer before has multiplied already:
//! `x_t = W_i input_t + b_i`, three parts.
//!
//! ```text
//! reset after (PyTorch, cuDNN)                       reset before (Cho et al. 2014; TensorFlow's GRUCell)
//! r = s(x_r + U_r h + b_r)                           r = s(x_r + h G_r)
//! z = s(x_z + U_z h + b_z)                           z = s(x_z + h G_z)
//! q = U_n h + b_n,  n = tanh(x_n + r q)              m = r h,  n = tanh(x_n + m C)
//! h' = (1 - z) n + z h
//! ```
//!
//! Gradients, from the last row to the first, with `dh` what comes from `y_t` and from the row behind it:
//! `dn = dh (1 - z)(1 - n^2)`, `dz = dh (h - n) z (1 - z)`, and then, after: `dr = dn q r (1 - r)`, `dh += dh z + [dr, dz, dn r] U`;
//! before: `dm = dn C^T`, `dr = dm h r (1 - r)`, `dh += dh z + dm r + [dr, dz] G^T`. Those of the weights are products over all rows.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::GpuBuilder;
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, DType, TensorType};
use crate::engine::{Tensor, ValueId};
use crate::error::Result;
use crate::ops::activation::sigmoid;
use crate::ops::add::Add;
use crate::ops::column_sum::ColumnSum;
use crate::ops::concat::Concat;
use crate::ops::embedding::Embedding;
use crate::ops::linear::Linear;
use crate::ops::matmul::Matmul;
use crate::ops::reshape::Reshape;
use crate::ops::segments::segments;

#[path = "gru/cpu.rs"]
mod cpu;
#[path = "gru/gpu.rs"]
mod gpu;

/// Where the reset gate acts. The two are different models: neither can be made of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// On the product of the hidden state.
    After,
    /// On the hidden state itself.
    Before,
}

/// Inputs `x[N, 3H]` (parts r, z, n), `h0[B, H]`, `cu_seqlens[B + 1]`, then `u[3H, H]`, `b[3H]` (reset after) or `g[H, 2H]`, `c[H, H]`
/// (before). Outputs `y[N, H]`, the state after each row, and `h_n[B, H]`, after the last (`h0` of an empty sequence); saved are
/// `gates[N, 4H]` (r, z, n and q or m) and `previous[N, H]`, the state before each row. Inert rows are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gru {
    /// Which of the two.
    pub reset: Reset,
}

/// Largest hidden state: it lies in workgroup memory.
const MAX_HIDDEN: usize = 512;

impl Op for Gru {
    fn name(&self) -> &'static str {
        "gru"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let [x, h0, borders, a, b] = inputs else { unreachable!("five inputs") };
        let (rows, hidden) = (x.rows(), h0.width());
        let fits = x.shape == [rows, 3 * hidden] && (1..=MAX_HIDDEN).contains(&hidden);
        expect("gru", fits, || format!("x is {x}, h0 {h0}; up to {MAX_HIDDEN} columns of state are possible"))?;
        let fits = borders.dtype == DType::U32 && borders.len() == h0.rows() + 1 && h0.rows() > 0;
        expect("gru", fits, || format!("cu_seqlens is {borders}, h0 {h0}"))?;
        let fits = match self.reset {
            Reset::After => a.shape == [3 * hidden, hidden] && b.len() == 3 * hidden,
            Reset::Before => a.shape == [hidden, 2 * hidden] && b.shape == [hidden, hidden],
        };
        expect("gru", fits, || format!("weights are {a} and {b}, h0 {h0}"))?;
        Ok(vec![
            TensorType::f32(&[rows, hidden]),
            (*h0).clone(),
            TensorType::f32(&[rows, 4 * hidden]),
            TensorType::f32(&[rows, hidden]),
        ])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let [x, h0, borders, a, b] = inputs else { unreachable!("inferred") };
        let hidden = h0.width();
        for (s, ends) in borders.u().windows(2).enumerate() {
            let mut h = h0.row(s).to_vec();
            for row in ends[0] as usize..ends[1] as usize {
                let x = x.row(row);
                let before = |columns: &Array, width: usize, column: usize, h: &[f64]| {
                    h.iter().enumerate().map(|(k, h)| h * columns.f()[k * width + column]).sum::<f64>()
                };
                let after =
                    |row: usize, h: &[f64]| b.f()[row] + a.row(row).iter().zip(h).map(|(u, h)| u * h).sum::<f64>();
                let gate = |place: usize| match self.reset {
                    Reset::After => sigmoid(x[place] + after(place, &h)),
                    Reset::Before => sigmoid(x[place] + before(a, 2 * hidden, place, &h)),
                };
                let (r, z): (Vec<f64>, Vec<f64>) = (0..hidden).map(|j| (gate(j), gate(hidden + j))).unzip();
                let m: Vec<f64> = match self.reset {
                    Reset::After => (0..hidden).map(|j| after(2 * hidden + j, &h)).collect(),
                    Reset::Before => r.iter().zip(&h).map(|(r, h)| r * h).collect(),
                };
                let n: Vec<f64> = (0..hidden)
                    .map(|j| match self.reset {
                        Reset::After => (x[2 * hidden + j] + r[j] * m[j]).tanh(),
                        Reset::Before => (x[2 * hidden + j] + before(b, hidden, j, &m)).tanh(),
                    })
                    .collect();
                outputs[3].f_mut()[row * hidden..][..hidden].copy_from_slice(&h);
                (0..hidden).for_each(|j| h[j] = (1.0 - z[j]) * n[j] + z[j] * h[j]);
                outputs[0].f_mut()[row * hidden..][..hidden].copy_from_slice(&h);
                outputs[2].f_mut()[row * 4 * hidden..][..4 * hidden].copy_from_slice(&[r, z, n, m].concat());
            }
            outputs[1].f_mut()[s * hidden..][..hidden].copy_from_slice(&h);
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        cpu::forward(*self, io);
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        gpu::forward(*self, b);
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        if vjp.cotangent(0).is_none() && vjp.cotangent(1).is_none() {
            return Ok(());
        }
        let (dy, dh_n) = (vjp.cotangent_or_zero(0)?, vjp.cotangent_or_zero(1)?);
        let [borders, a, b] = [2, 3, 4].map(|i| vjp.input(i));
        let (gates, previous) = (vjp.output(2), vjp.output(3));
        let outputs = vjp.add(GruGradient { forward: *self }, &[gates, previous, borders, a, b, dy, dh_n])?;
        vjp.accumulate(0, outputs[0])?;
        if vjp.needs(1) {
            vjp.accumulate(1, outputs[1])?;
        }
        let weights = match self.reset {
            Reset::After => [vjp.add(Matmul::TN, &[outputs[2], previous])?[0], vjp.add(ColumnSum, &[outputs[2]])?[0]],
            Reset::Before => {
                [vjp.add(Matmul::TN, &[previous, outputs[2]])?[0], vjp.add(Matmul::TN, &[outputs[4], outputs[3]])?[0]]
            }
        };
        for (i, gradient) in [3, 4].into_iter().zip(weights).filter(|(i, _)| vjp.needs(*i)).collect::<Vec<_>>() {
            vjp.accumulate(i, gradient)?;
        }
        Ok(())
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(2 * inputs[0].len() * inputs[1].width(), inputs, outputs)
    }
}

/// Inputs `gates`, `previous`, `cu_seqlens` and the weights of `forward`, then `dy[N, H]`, `dh_n[B, H]`. Outputs `dx[N, 3H]`,
/// `dh0[B, H]` and what the weights' gradients are products of: after, `[dr, dz, dn r]` (`[N, 3H]`); before, `[dr, dz]`
/// (`[N, 2H]`), `dn` and `m` (`[N, H]` each).
#[derive(Clone, Copy, Debug)]
pub struct GruGradient {
    /// The op that this is the gradient of.
    pub forward: Gru,
}

impl Op for GruGradient {
    fn name(&self) -> &'static str {
        "gru_gradient"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let (rows, hidden) = (inputs[1].rows(), inputs[1].width());
        let wide = |parts: usize| TensorType::f32(&[rows, parts * hidden]);
        let mut types = vec![wide(3), inputs[6].clone()];
        match self.forward.reset {
            Reset::After => types.push(wide(3)),
            Reset::Before => types.extend([wide(2), wide(1), wide(1)]),
        }
        Ok(types)
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let [gates, previous, borders, a, b, dy, dh_n] = inputs else { unreachable!("inferred") };
        let hidden = previous.width();
        for (s, ends) in borders.u().windows(2).enumerate() {
            let mut dh = dh_n.row(s).to_vec();
            for row in (ends[0] as usize..ends[1] as usize).rev() {
                dh.iter_mut().zip(dy.row(row)).for_each(|(dh, dy)| *dh += dy);
                let (h, gates) = (previous.row(row), gates.row(row));
                let gate = |part: usize, j: usize| gates[part * hidden + j];
                let dn: Vec<f64> =
                    (0..hidden).map(|j| dh[j] * (1.0 - gate(1, j)) * (1.0 - gate(2, j).powi(2))).collect();
                let dz: Vec<f64> =
                    (0..hidden).map(|j| dh[j] * (h[j] - gate(2, j)) * gate(1, j) * (1.0 - gate(1, j))).collect();
                // What reaches the state through the candidate, before: dm; after: nothing by itself.
                let dm: Vec<f64> = match self.forward.reset {
                    Reset::After => vec![0.0; hidden],
                    Reset::Before => (0..hidden).map(|k| dn.iter().zip(b.row(k)).map(|(dn, c)| dn * c).sum()).collect(),
                };
                let through = |j: usize| match self.forward.reset {
                    Reset::After => dn[j] * gate(3, j),
                    Reset::Before => dm[j] * h[j],
                };
                let dr: Vec<f64> = (0..hidden).map(|j| through(j) * gate(0, j) * (1.0 - gate(0, j))).collect();
                let reset: Vec<f64> = (0..hidden).map(|j| dn[j] * gate(0, j)).collect();
                for k in 0..hidden {
                    let product = match self.forward.reset {
                        Reset::After => {
                            let parts = dr.iter().chain(&dz).chain(&reset).enumerate();
                            parts.map(|(j, d)| d * a.f()[j * hidden + k]).sum::<f64>()
                        }
                        Reset::Before => {
                            dm[k] * gate(0, k) + dr.iter().chain(&dz).zip(a.row(k)).map(|(d, g)| d * g).sum::<f64>()
                        }
                    };
                    dh[k] = dh[k] * gate(1, k) + product;
                }
                let mut put = |output: usize, parts: &[&Vec<f64>]| {
                    let words = parts.len() * hidden;
                    let values: Vec<f64> = parts.iter().flat_map(|part| part.iter().copied()).collect();
                    outputs[output].f_mut()[row * words..][..words].copy_from_slice(&values);
                };
                put(0, &[&dr, &dz, &dn]);
                match self.forward.reset {
                    Reset::After => put(2, &[&dr, &dz, &reset]),
                    Reset::Before => {
                        put(2, &[&dr, &dz]);
                        put(3, &[&dn]);
                        put(4, &[&gates[3 * hidden..].to_vec()]);
                    }
                }
            }
            outputs[1].f_mut()[s * hidden..][..hidden].copy_from_slice(&dh);
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        cpu::backward(self.forward, io);
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        gpu::backward(self.forward, b);
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(6 * inputs[1].len() * inputs[1].width(), inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("gru", build_after), ("gru_tf", build_before), ("gru_packed", build)];

/// `x[B, T, I]` under `lengths[B]` as packed rows, and how to bring rows back.
struct PackedInput {
    rows: ValueId,
    borders: ValueId,
    /// `[B, T]`: the row of each place, and these ids grouped.
    places: [ValueId; 2],
}

impl PackedInput {
    fn new(b: &mut Builder) -> Result<Self> {
        let x = b.input("x")?;
        let [sequences, steps, width] = b.graph.shape(x)[..] else { unreachable!("three axes") };
        let (mut borders, mut valid, mut places) = (vec![0], Vec::new(), vec![u32::MAX; sequences * steps]);
        for (s, length) in b.u32s("lengths")?.into_iter().enumerate() {
            for (place, row) in places.iter_mut().enumerate().skip(s * steps).take(length as usize) {
                *row = valid.len() as u32;
                valid.push(place as u32);
            }
            borders.push(valid.len() as u32);
        }
        let rows = b.graph.add1(Reshape { shape: vec![sequences * steps, width] }, &[x])?;
        let rows = gathered(b, rows, "valid", &[valid.len()], &valid)?;
        let borders = b.feed("cu_seqlens", Tensor::u32(&[borders.len()], &borders));
        let grouped = b.feed("places_segments", segments(&places, None));
        let places = [b.feed("places", Tensor::u32(&[sequences, steps], &places)), grouped];
        Ok(PackedInput { rows, borders, places })
    }

    fn outputs(&self, b: &mut Builder, gru: &[ValueId]) -> Result<()> {
        let y = b.graph.add1(Embedding { padding_idx: None }, &[gru[0], self.places[0], self.places[1]])?;
        b.output("y", y);
        b.output("h_n", gru[1]);
        Ok(())
    }
}

/// Rows of a table that is differentiated.
fn gathered(b: &mut Builder, table: ValueId, name: &str, shape: &[usize], ids: &[u32]) -> Result<ValueId> {
    let grouped = b.feed(&format!("{name}_segments"), segments(ids, None));
    let ids = b.feed(name, Tensor::u32(shape, ids));
    b.graph.add1(Embedding { padding_idx: None }, &[table, ids, grouped])
}

fn build_after(b: &mut Builder) -> Result<()> {
    let packed = PackedInput::new(b)?;
    let [h0, w_ih, w_hh, b_ih, b_hh] = ["h0", "w_ih", "w_hh", "b_ih", "b_hh"].map(|name| b.input(name));
    let x = b.graph.add1(Linear::default(), &[packed.rows, w_ih?, b_ih?])?;
    let outputs = b.graph.add(Gru { reset: Reset::After }, &[x, h0?, packed.borders, w_hh?, b_hh?])?;
    packed.outputs(b, &outputs)
}

/// Weights of input and state are one table each, `[I + H, ..]`.
fn build_before(b: &mut Builder) -> Result<()> {
    let packed = PackedInput::new(b)?;
    let h0 = b.input("h0")?;
    let (rows, width, hidden) = (b.graph.shape(packed.rows)[0], b.graph.shape(packed.rows)[1], b.graph.shape(h0)[1]);
    let (mut state, mut x) = (Vec::new(), Vec::new());
    for name in ["gates", "cand"] {
        let (weight, bias) = (b.input(&format!("w_{name}"))?, b.input(&format!("b_{name}"))?);
        let part = |from: usize, len: usize| (from as u32..(from + len) as u32).collect::<Vec<u32>>();
        let of_input = gathered(b, weight, &format!("{name}_input"), &[width], &part(0, width))?;
        state.push(gathered(b, weight, &format!("{name}_state"), &[hidden], &part(width, hidden))?);
        let columns = b.graph.ty(bias).len();
        let bias = b.graph.add1(Reshape { shape: vec![1, columns] }, &[bias])?;
        let bias = gathered(b, bias, &format!("{name}_bias"), &[rows], &vec![0; rows])?;
        let product = b.graph.add1(Matmul::NN, &[packed.rows, of_input])?;
        x.push(b.graph.add1(Add, &[product, bias])?);
    }
    let x = b.graph.add1(Concat, &x)?;
    let outputs = b.graph.add(Gru { reset: Reset::Before }, &[x, h0, packed.borders, state[0], state[1]])?;
    packed.outputs(b, &outputs)
}

fn build(b: &mut Builder) -> Result<()> {
    let inputs = ["x", "h0", "cu_seqlens", "a", "b"].iter().map(|name| b.input(name)).collect::<Result<Vec<_>>>()?;
    let reset = if b.attr_bool("before")? { Reset::Before } else { Reset::After };
    let outputs = b.graph.add(Gru { reset }, &inputs)?;
    b.output("y", outputs[0]);
    b.output("h_n", outputs[1]);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |name: &str, before: bool, lengths: &[usize], inert: usize, hidden: usize| {
        let borders: Vec<u32> = (0..=lengths.len()).map(|s| lengths[..s].iter().sum::<usize>() as u32).collect();
        let rows = lengths.iter().sum::<usize>() + inert;
        let name = format!("{name}, reset {}", if before { "before" } else { "after" });
        let case = Case::new(KERNELS[2], name).attr("before", before).ids("cu_seqlens", &[borders.len()], &borders);
        let case = case.normal("x", &[rows, 3 * hidden], 1.0).normal("h0", &[lengths.len(), hidden], 1.0);
        let scale = (hidden as f64).powf(-0.5);
        match before {
            false => case.normal("a", &[3 * hidden, hidden], scale).normal("b", &[3 * hidden], 0.3),
            true => case.normal("a", &[hidden, 2 * hidden], scale).normal("b", &[hidden, hidden], scale),
        }
    };
    let of = |before: bool| {
        [
            case("one row of one", before, &[1], 0, 1),
            case("empty, short and inert", before, &[0, 3, 1, 7, 0], 5, 3),
            case("many sequences", before, &[2; 70], 0, 5),
            case("wide", before, &[4, 9], 1, 130),
            case("long", before, &[65, 2], 0, 64),
        ]
    };
    // More sequences than a row of the grid has workgroups: some of the second row have none.
    let folded = case("folded grid", false, &[1; 32_771], 0, 2);
    [&of(false)[..], &of(true), &[folded]].concat()
}
