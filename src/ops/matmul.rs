//! `Y = A B`, batched, either operand transposed; and the one GEMM that every op with a matrix product calls.
//!
//! A long inner dimension with few output tiles (a weight gradient: K = tokens) is cut into slices whose sums are added
//! in order afterwards (split-K), so that the result depends on the shape alone, never on the number of threads.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Update, Access::Write, GpuBuilder, Region};
use crate::engine::exec::simd;
use crate::engine::grad::Vjp;
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, TensorType};
use crate::error::Result;
use crate::shader;
pub(crate) use gpu::{Gemm, Launch};
use rayon::prelude::*;

#[path = "matmul/gpu.rs"]
mod gpu;

/// Inputs `a[.., M, K]` (`[.., K, M]` when `trans_a`), `b[.., K, N]` (`[.., N, K]` when `trans_b`); output `y[.., M, N]`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Matmul {
    /// `a` is `[K, M]`, not `[M, K]`.
    pub trans_a: bool,
    /// `b` is `[N, K]`, not `[K, N]`.
    pub trans_b: bool,
}

/// The sizes of one (batched) product.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Products side by side.
    pub batch: usize,
    /// Rows of the output.
    pub m: usize,
    /// Columns of the output.
    pub n: usize,
    /// Length of the inner products.
    pub k: usize,
}

impl Matmul {
    /// `A B`
    pub const NN: Matmul = Matmul { trans_a: false, trans_b: false };
    /// `A B^T`
    pub const NT: Matmul = Matmul { trans_a: false, trans_b: true };
    /// `A^T B`
    pub const TN: Matmul = Matmul { trans_a: true, trans_b: false };

    fn sizes(&self, a: &TensorType, b: &TensorType) -> Option<Sizes> {
        let (rank, fits) = (a.shape.len(), a.shape.len() >= 2 && a.shape.len() == b.shape.len());
        if !fits || a.shape[..rank - 2] != b.shape[..rank - 2] {
            return None;
        }
        let last = |ty: &TensorType, transposed: bool| match ty.shape[rank - 2..] {
            [x, y] if transposed => (y, x),
            [x, y] => (x, y),
            _ => unreachable!("the slice has two elements"),
        };
        let ((m, k), (k_b, n)) = (last(a, self.trans_a), last(b, self.trans_b));
        (k == k_b).then(|| Sizes { batch: a.shape[..rank - 2].iter().product(), m, n, k })
    }
}

impl Op for Matmul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let sizes = self.sizes(inputs[0], inputs[1]);
        expect("matmul", sizes.is_some(), || format!("{} and {} do not fit as {self:?}", inputs[0], inputs[1]))?;
        let Sizes { m, n, .. } = sizes.expect("just checked");
        let mut shape = inputs[0].shape.clone();
        shape.truncate(shape.len() - 2);
        shape.extend([m, n]);
        Ok(vec![TensorType::f32(&shape)])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let Sizes { m, n, k, .. } = self.sizes(&inputs[0].ty, &inputs[1].ty).expect("inferred");
        let (a, b) = (inputs[0].f(), inputs[1].f());
        for (i, y) in outputs[0].f_mut().iter_mut().enumerate() {
            let (z, row, column) = (i / (m * n), i / n % m, i % n);
            let a_at = |l: usize| a[z * m * k + if self.trans_a { l * m + row } else { row * k + l }];
            let b_at = |l: usize| b[z * k * n + if self.trans_b { column * k + l } else { l * n + column }];
            *y = (0..k).map(|l| a_at(l) * b_at(l)).sum();
        }
    }

    fn cpu_scratch(&self, inputs: &[&TensorType], _outputs: &[&TensorType]) -> usize {
        let sizes = self.sizes(inputs[0], inputs[1]).expect("inferred");
        split_k_scratch(sizes.m, sizes.n, sizes.k)
    }

    fn cpu(&self, io: &mut CpuIo) {
        let Sizes { batch, m, n, k } = self.sizes(io.inputs[0].ty, io.inputs[1].ty).expect("inferred");
        let (a, b, y) = (io.inputs[0].f(), io.inputs[1].f(), io.outputs[0].f());
        for z in 0..batch {
            let (a, b) = (&a[z * m * k..(z + 1) * m * k], &b[z * k * n..(z + 1) * k * n]);
            let a = if self.trans_a { Matrix::transposed(a, m) } else { Matrix::new(a, k) };
            let b = if self.trans_b { Matrix::transposed(b, k) } else { Matrix::new(b, n) };
            matmul_cpu((m, n, k), a, b, &mut y[z * m * n..(z + 1) * m * n], io.scratch);
        }
    }

    fn gpu(&self, builder: &mut GpuBuilder) {
        let sizes = self.sizes(builder.inputs[0], builder.inputs[1]).expect("inferred");
        gemm_gpu(builder, Gemm::new(*self, sizes, builder.input(0), builder.input(1), builder.output(0)));
    }

    fn vjp(&self, vjp: &mut Vjp) -> Result<()> {
        let Some(dy) = vjp.cotangent(0) else { return Ok(()) };
        let (a, b) = (vjp.input(0), vjp.input(1));
        if vjp.needs(0) {
            let da = match self.trans_a {
                false => vjp.add(Matmul { trans_a: false, trans_b: !self.trans_b }, &[dy, b])?[0],
                true => vjp.add(Matmul { trans_a: self.trans_b, trans_b: true }, &[b, dy])?[0],
            };
            vjp.accumulate(0, da)?;
        }
        if vjp.needs(1) {
            let db = match self.trans_b {
                false => vjp.add(Matmul { trans_a: !self.trans_a, trans_b: false }, &[a, dy])?[0],
                true => vjp.add(Matmul { trans_a: true, trans_b: self.trans_a }, &[dy, a])?[0],
            };
            vjp.accumulate(1, db)?;
        }
        Ok(())
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        let Sizes { batch, m, n, k } = self.sizes(inputs[0], inputs[1]).expect("inferred");
        Cost::new(2 * batch * m * n * k, inputs, outputs)
    }
}

/// A matrix in host memory by its strides.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    /// From the first element on.
    pub data: &'a [f32],
    /// Words from one row to the next.
    pub row_stride: usize,
    /// Words from one column to the next.
    pub column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Row-major, `width` words per row.
    pub fn new(data: &'a [f32], width: usize) -> Self {
        Matrix { data, row_stride: width, column_stride: 1 }
    }

    /// The transpose of a row-major matrix with `width` words per row.
    pub fn transposed(data: &'a [f32], width: usize) -> Self {
        Matrix { data, row_stride: 1, column_stride: width }
    }

    /// Brings the first rows into the cache, where they lie end to end.
    fn fetch_rows(self, rows: usize) {
        if self.column_stride == 1 {
            simd::fetch(&self.data[..rows * self.row_stride]);
        }
    }

    /// The same for columns.
    fn fetch_columns(self, columns: usize) {
        if self.row_stride == 1 {
            simd::fetch(&self.data[..columns * self.column_stride]);
        }
    }
}

/// `C = A B`, or `C += A B` with `accumulate`, on the calling thread; `c` is row-major, `c_stride` words per row.
pub fn gemm((m, n, k): (usize, usize, usize), a: Matrix, b: Matrix, c: &mut [f32], c_stride: usize, accumulate: bool) {
    if m == 0 || n == 0 {
        return;
    }
    let last = |matrix: Matrix, rows: usize, columns: usize| {
        (rows.max(1) - 1) * matrix.row_stride + (columns.max(1) - 1) * matrix.column_stride
    };
    assert!(k == 0 || (last(a, m, k) < a.data.len() && last(b, k, n) < b.data.len()), "gemm reads out of bounds");
    assert!((m - 1) * c_stride + n <= c.len(), "gemm writes out of bounds");
    // SAFETY: every address that m, n, k and the strides reach was just checked to lie inside its slice, and `c` is
    // borrowed mutably, so nothing overlaps it. `gemm` has no safe form.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            c_stride as isize,
            accumulate,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// `out[width, stride]` from the rows of `x[.., width]`, on the calling thread.
pub fn transpose(x: &[f32], width: usize, out: &mut [f32], stride: usize) {
    transpose_columns(x, width, 0, &mut out[..width * stride], stride);
}

/// The same for the columns of `x` from `first` on, as many as `out` has rows: tile by tile, so that both sides stay on
/// few lines of the cache.
pub fn transpose_columns(x: &[f32], width: usize, first: usize, out: &mut [f32], stride: usize) {
    const TILE: usize = 16;
    for (block, out) in out.chunks_mut(TILE * stride).enumerate() {
        let first = first + block * TILE;
        for (tile, rows) in x.chunks(TILE * width).enumerate() {
            for (column, out) in out.chunks_mut(stride).enumerate() {
                let values = rows.iter().skip(first + column).step_by(width);
                out[tile * TILE..].iter_mut().zip(values).for_each(|(out, x)| *out = *x);
            }
        }
    }
}

/// Rows of the output that one worker computes, of so many: some for each of several cores, but enough to be worth the packing
/// of the other operand. A rule on the shape alone.
pub fn row_block(rows: usize) -> usize {
    rows.div_ceil(8).next_multiple_of(32).clamp(64, 512)
}

/// Inner elements of one split-K slice.
const K_SLICE: usize = 1024;

/// Inner elements whose operands stay in the cache of a core.
const K_BLOCK: usize = 256;

/// Split-K pays when the output is small and the inner dimension long. A rule on the shape alone.
fn k_slices(m: usize, n: usize, k: usize) -> usize {
    if m * n <= 128 * 1024 && k >= 2 * K_SLICE { k.div_ceil(K_SLICE) } else { 1 }
}

/// Words of scratch that `matmul_cpu` wants.
pub fn split_k_scratch(m: usize, n: usize, k: usize) -> usize {
    match k_slices(m, n, k) {
        1 => 0,
        slices => slices * m * n,
    }
}

/// `C = A B` on all cores; `c[m, n]` row-major.
pub fn matmul_cpu((m, n, k): (usize, usize, usize), a: Matrix, b: Matrix, c: &mut [f32], scratch: &mut [f32]) {
    let slices = k_slices(m, n, k);
    if slices == 1 {
        let rows = row_block(m);
        c.par_chunks_mut(rows * n).enumerate().for_each(|(block, c)| {
            let a = Matrix { data: &a.data[block * rows * a.row_stride..], ..a };
            a.fetch_rows(c.len() / n);
            simd::fetch(c);
            gemm((c.len() / n, n, k), a, b, c, n, false);
        });
        return;
    }
    let scratch = &mut scratch[..slices * m * n];
    scratch.par_chunks_mut(m * n).enumerate().for_each(|(slice, partial)| {
        let slice = slice * K_SLICE..k.min((slice + 1) * K_SLICE);
        for first in slice.clone().step_by(K_BLOCK) {
            let a = Matrix { data: &a.data[first * a.column_stride..], ..a };
            let b = Matrix { data: &b.data[first * b.row_stride..], ..b };
            let depth = K_BLOCK.min(slice.end - first);
            a.fetch_columns(depth);
            b.fetch_rows(depth);
            gemm((m, n, depth), a, b, partial, n, first > slice.start);
        }
    });
    c.copy_from_slice(&scratch[..m * n]);
    for partial in scratch[m * n..].chunks_exact(m * n) {
        c.iter_mut().zip(partial).for_each(|(c, x)| *c += x);
    }
}

/// Appends the dispatches of a product.
pub(crate) fn gemm_gpu(builder: &mut GpuBuilder, gemm: Gemm) {
    let Launch { mut consts, params, groups, slices } = gemm.launch(builder.limits);
    let sliced = slices > 1;
    let target = if sliced { builder.scratch(slices * gemm.y.len) } else { gemm.y };
    let accumulate = gemm.accumulate && !sliced;
    consts.extend([("BIAS", u32::from(gemm.bias.is_some())), ("ACCUMULATE", u32::from(accumulate))]);
    let access = if accumulate { Update } else { Write };
    let bindings = [(gemm.a, Read), (gemm.b, Read), (gemm.bias.unwrap_or(gemm.b), Read), (target, access)];
    builder.dispatch(shader!("gemm"), &consts, &bindings, &params, groups);
    if sliced {
        sum_slabs_gpu(builder, target, gemm.y, slices, gemm.accumulate);
    }
}

/// `y (+)= sum of the slabs of x`, in order; each slab has the length of `y`.
pub fn sum_slabs_gpu(builder: &mut GpuBuilder, x: Region, y: Region, slabs: usize, accumulate: bool) {
    let params = [y.len.into(), slabs.into(), accumulate.into()];
    let access = if accumulate { Update } else { Write };
    builder.dispatch(shader!("sum_slabs"), &[], &[(x, Read), (y, access)], &params, y.len.div_ceil(64));
}

/// `y[0] = scale * sum of x`, by one workgroup.
pub fn sum_all_gpu(builder: &mut GpuBuilder, x: Region, y: Region, scale: f64) {
    builder.dispatch(shader!("sum_all"), &[], &[(x, Read), (y, Write)], &[x.len.into(), scale.into()], 1);
}

pub(crate) const KERNELS: &[Kernel] = &[("matmul", build)];

fn build(b: &mut Builder) -> Result<()> {
    let op = Matmul { trans_a: b.attr_bool("trans_a")?, trans_b: b.attr_bool("trans_b")? };
    let inputs = [b.input("a")?, b.input("b")?];
    let y = b.graph.add1(op, &inputs)?;
    b.output("y", y);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |(batch, m, n, k): (usize, usize, usize, usize), trans_a: bool, trans_b: bool| {
        let form = [if trans_a { 'T' } else { 'N' }, if trans_b { 'T' } else { 'N' }];
        let name = format!("{} {batch}x{m}x{n}x{k}", form.iter().collect::<String>());
        let a = if trans_a { [batch, k, m] } else { [batch, m, k] };
        let b = if trans_b { [batch, n, k] } else { [batch, k, n] };
        let case = Case::new(KERNELS[0], name).attr("trans_a", trans_a).attr("trans_b", trans_b);
        case.normal("a", &a, 1.0).normal("b", &b, 1.0)
    };
    let mut cases = Vec::new();
    for (trans_a, trans_b) in [(false, false), (false, true), (true, false), (true, true)] {
        cases.extend([(1, 1, 1, 1), (2, 3, 65, 2), (1, 63, 64, 130)].map(|sizes| case(sizes, trans_a, trans_b)));
    }
    // Many multiply-adds, for the large tiles: parts of tiles, rows that are and are not multiples of 4, thin outputs,
    // inner dimensions that are cut into slices.
    cases.extend([(false, false), (true, true)].map(|(a, b)| case((1, 131, 68, 129), a, b)));
    cases.extend([(false, true), (true, false)].map(|(a, b)| case((1, 132, 67, 132), a, b)));
    cases.extend([case((2, 3, 1300, 140), false, true), case((1, 1300, 7, 132), false, false)]);
    cases.extend([case((1, 5, 7, 2500), true, false), case((1, 36, 40, 2050), true, false)]);
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_a_product_has_the_same_bits_whatever_rows_are_around_it() {
        let values =
            |n: usize, step: usize| -> Vec<f32> { (0..n).map(|i| ((i * step) % 1009) as f32 / 7.0 - 72.0).collect() };
        for (n, k) in [(96, 40), (256, 1100), (300, 256)] {
            let (a, b) = (values(1700 * k, 7919), values(k * n, 6007));
            let product = |rows: usize| {
                let mut c = vec![0.0; rows * n];
                matmul_cpu((rows, n, k), Matrix::new(&a, k), Matrix::new(&b, n), &mut c, &mut []);
                c
            };
            let all = product(1700);
            for rows in [64, 192, 704] {
                assert_eq!(product(rows), all[..rows * n], "{rows} rows of {k} x {n}");
            }
        }
    }
}
