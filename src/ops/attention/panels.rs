//! The products of attention's inner dimensions, 10 to 200, where a general GEMM spends most of its time on preparation.
//!
//! One operand is laid out in *panels* of sixteen columns, read row after row. Four rows of the other go against up to
//! four panels at a time, and the sums stay in registers. With a causal mask four rows stop at their own diagonal.

use super::MAX_WIDTH;
use pulp::{Arch, Simd, WithSimd};

/// Rows that are worked on together.
pub const QUAD: usize = 4;
/// Columns of a panel.
pub const LANES: usize = 16;

/// A row of a panel, on one line of the cache: a vector that lies across two lines takes two reads.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub struct Lanes(pub [f32; LANES]);

/// Rows of a matrix in a larger one.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub data: &'a [f32],
    pub stride: usize,
    pub rows: usize,
    pub width: usize,
}

/// How many keys a query row of a group can reach, counted from the start of the sequence.
#[derive(Clone, Copy)]
pub struct Reach {
    pub keys: usize,
    /// With a causal mask: the place of the group's first row in the sequence.
    pub diagonal: Option<usize>,
    /// Keys that an earlier group of the sequence reached.
    pub reached: usize,
}

impl Reach {
    /// Keys in reach of the rows `quad..quad + 4` of the group.
    pub fn of_quad(self, quad: usize) -> usize {
        self.diagonal.map_or(self.keys, |first| self.keys.min(first + quad + QUAD))
    }
}

/// Columns of `x` in panels: panel `c` holds columns `16 c..` of all rows, filled up with zeros.
pub fn pack(x: View, panels: &mut [Lanes]) {
    for (c, panel) in panels.chunks_exact_mut(x.rows.max(1)).enumerate() {
        let columns = c * LANES..x.width.min((c + 1) * LANES);
        for (row, lanes) in panel.iter_mut().enumerate() {
            let from = &x.data[row * x.stride..][columns.clone()];
            match from.first_chunk() {
                Some(whole) => lanes.0 = *whole,
                None => {
                    lanes.0[..from.len()].copy_from_slice(from);
                    lanes.0[from.len()..].fill(0.0);
                }
            }
        }
    }
}

/// Columns of `factor x^T` in panels: panel `c` holds rows `16 c..` of `x`, column after column, filled up with zeros.
pub fn pack_transposed(x: View, factor: f32, panels: &mut [Lanes]) {
    const ZEROS: [f32; MAX_WIDTH] = [0.0; MAX_WIDTH];
    let line = |row: usize| if row < x.rows { &x.data[row * x.stride..][..x.width] } else { &ZEROS[..x.width] };
    for (c, panel) in panels.chunks_exact_mut(x.width).enumerate() {
        for quad in (0..LANES).step_by(QUAD) {
            let row = c * LANES + quad;
            let lines = [line(row), line(row + 1), line(row + 2), line(row + 3)];
            for (d, lanes) in panel.iter_mut().enumerate() {
                let values = [lines[0][d], lines[1][d], lines[2][d], lines[3][d]];
                lanes.0[quad..quad + QUAD].copy_from_slice(&values.map(|x| factor * x));
            }
        }
    }
}

/// Where a product goes: `width` columns of rows that are `stride` words apart.
pub struct Out<'a> {
    pub data: &'a mut [f32],
    pub stride: usize,
    pub width: usize,
}

/// A product of rows `a` with panels, over what is in `reach`.
pub struct Product<'a> {
    pub form: Form,
    pub a: View<'a>,
    pub panels: &'a [Lanes],
    pub reach: Reach,
    pub out: Out<'a>,
}

#[derive(Clone, Copy)]
pub enum Form {
    /// `out = a B` for the columns in reach, in whole panels: the scores of queries `a` against the keys `B`.
    AgainstKeys,
    /// `out = a B` over the rows of `B` in reach: probabilities `a` times the values `B`.
    Mix,
    /// `out += a^T B`: what the rows of `a` send back to the keys they reach. What no earlier group reached is written,
    /// not added to.
    SendBack,
}

impl Product<'_> {
    pub fn run(self) {
        Arch::new().dispatch(self);
    }
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // As many sums as leave registers for a row of the panels: 32 with 16 or 4 lanes, 16 with 8.
        match S::F32_LANES {
            16 => self.tiles::<S, 1, 4>(simd),
            8 => self.tiles::<S, 2, 1>(simd),
            4 => self.tiles::<S, 4, 1>(simd),
            _ => self.tiles::<S, LANES, 1>(simd),
        }
    }
}

impl Product<'_> {
    /// The product in tiles of four rows and up to `MOST` panels, with `VECTORS` registers for a row of a panel.
    #[inline(always)]
    fn tiles<S: Simd, const VECTORS: usize, const MOST: usize>(self, simd: S) {
        let Product { form, a, panels, reach, mut out } = self;
        match form {
            Form::AgainstKeys => {
                let panels = Panels { panels, height: a.width, first: 0 };
                for row in (0..a.rows).step_by(QUAD) {
                    let width = reach.of_quad(row).next_multiple_of(LANES);
                    let place = Place { row, rows: a.rows - row, width, add: false };
                    let rows = four_rows(a, row, a.width);
                    place.fill::<S, VECTORS, MOST>(simd, rows, a.width, panels, &mut out);
                }
            }
            Form::Mix => {
                let panels = Panels { panels, height: a.width, first: 0 };
                for row in (0..a.rows).step_by(QUAD) {
                    let depth = reach.of_quad(row);
                    let place = Place { row, rows: a.rows - row, width: out.width, add: false };
                    let rows = four_rows(a, row, depth);
                    place.fill::<S, VECTORS, MOST>(simd, rows, depth, panels, &mut out);
                }
            }
            Form::SendBack => {
                for key in (0..reach.keys).step_by(QUAD) {
                    let first = reach.diagonal.map_or(0, |first| key.saturating_sub(first));
                    let panels = Panels { panels, height: a.rows, first };
                    let add = key < reach.reached;
                    let place = Place { row: key, rows: reach.keys - key, width: out.width, add };
                    let columns = Columns(&a.data[first * a.stride + key..], a.stride);
                    place.fill::<S, VECTORS, MOST>(simd, columns, a.rows - first, panels, &mut out);
                }
            }
        }
    }
}

/// Four rows of an operand.
trait Quad: Copy {
    /// Their values at place `l` of the sum.
    fn at(self, l: usize) -> [f32; QUAD];
}

impl Quad for [&[f32]; QUAD] {
    #[inline(always)]
    fn at(self, l: usize) -> [f32; QUAD] {
        [self[0][l], self[1][l], self[2][l], self[3][l]]
    }
}

/// Four columns of a matrix whose rows are so many words apart.
#[derive(Clone, Copy)]
struct Columns<'a>(&'a [f32], usize);

impl Quad for Columns<'_> {
    #[inline(always)]
    fn at(self, l: usize) -> [f32; QUAD] {
        *self.0[l * self.1..].first_chunk().expect("rows are padded")
    }
}

/// The rows `row..row + 4` of `a`, the last one repeated behind the end.
#[inline(always)]
fn four_rows<'a>(a: View<'a>, row: usize, depth: usize) -> [&'a [f32]; QUAD] {
    let line = |r: usize| &a.data[(row + r).min(a.rows - 1) * a.stride..][..depth];
    [line(0), line(1), line(2), line(3)]
}

/// Panels of so many rows each, and the first row to read.
#[derive(Clone, Copy)]
struct Panels<'a> {
    panels: &'a [Lanes],
    height: usize,
    first: usize,
}

/// Up to four rows of the output.
#[derive(Clone, Copy)]
struct Place {
    row: usize,
    rows: usize,
    width: usize,
    /// Whether the sums are added to what is there.
    add: bool,
}

impl Place {
    /// `out_rc = sum_l values.at(l)_r panels_lc`, `l` below `depth`.
    #[inline(always)]
    fn fill<S: Simd, const VECTORS: usize, const MOST: usize>(
        self,
        simd: S,
        values: impl Quad,
        depth: usize,
        panels: Panels,
        out: &mut Out,
    ) {
        let count = self.width.div_ceil(LANES);
        let mut c = 0;
        while c < count {
            let taken = MOST.min(count - c);
            match taken {
                4 => self.tile::<S, VECTORS, 4>(simd, values, depth, panels, c, out),
                3 => self.tile::<S, VECTORS, 3>(simd, values, depth, panels, c, out),
                2 => self.tile::<S, VECTORS, 2>(simd, values, depth, panels, c, out),
                _ => self.tile::<S, VECTORS, 1>(simd, values, depth, panels, c, out),
            }
            c += taken;
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const VECTORS: usize, const PANELS: usize>(
        self,
        simd: S,
        values: impl Quad,
        depth: usize,
        Panels { panels, height, first }: Panels,
        c: usize,
        out: &mut Out,
    ) {
        let panels: [&[Lanes]; PANELS] = std::array::from_fn(
            #[inline(always)]
            |p| &panels[(c + p) * height + first..][..depth],
        );
        let mut sums = [[[simd.splat_f32s(0.0); VECTORS]; PANELS]; QUAD];
        for l in 0..depth {
            let lanes = panels.map(
                #[inline(always)]
                |panel| S::as_simd_f32s(&panel[l].0).0,
            );
            // Read last, so that each is loaded into all lanes at once and not moved between registers.
            let values = values.at(l);
            for p in 0..PANELS {
                for v in 0..VECTORS {
                    for r in 0..QUAD {
                        sums[r][p][v] = simd.mul_add_e_f32s(simd.splat_f32s(values[r]), lanes[p][v], sums[r][p][v]);
                    }
                }
            }
        }
        for (r, sums) in sums.into_iter().enumerate().take(self.rows) {
            for (c, sums) in (c..).zip(sums) {
                let columns = LANES.min(self.width - c * LANES);
                let out = &mut out.data[(self.row + r) * out.stride + c * LANES..][..columns];
                self.store::<S, VECTORS>(simd, sums, out);
            }
        }
    }

    /// Writes or adds the first `out.len()` sums.
    #[inline(always)]
    fn store<S: Simd, const VECTORS: usize>(self, simd: S, sums: [S::f32s; VECTORS], out: &mut [f32]) {
        if out.len() == LANES {
            let out = S::as_mut_simd_f32s(out).0;
            for v in 0..VECTORS {
                out[v] = if self.add { simd.add_f32s(sums[v], out[v]) } else { sums[v] };
            }
        } else {
            for (v, out) in out.chunks_mut(S::F32_LANES).enumerate() {
                let sums = if self.add { simd.add_f32s(sums[v], simd.partial_load_f32s(out)) } else { sums[v] };
                simd.partial_store_f32s(out, sums);
            }
        }
    }
}
