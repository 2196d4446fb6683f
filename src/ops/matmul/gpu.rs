//! How a product runs on a GPU: which tile, how many slices along k. Rules on the shape and the class of the adapter
//! alone; nothing is timed, so that two runs never differ.
//!
//! Whatever the tile of f32, a word of the result is one chain of fused multiply-adds over k in ascending order. Products that
//! are not sliced along k therefore agree bit by bit on equal rows and columns, whatever their shapes: ranks need that.

use super::{Matmul, Sizes};
use crate::engine::exec::gpu::kernel::{AdapterClass, GpuLimits, Param, Region};

/// One product: `y = a b (+ bias) (+ y)`.
#[derive(Clone, Copy, Debug)]
pub struct Gemm {
    pub form: Matmul,
    pub sizes: Sizes,
    pub a: Region,
    pub b: Region,
    /// `[N]`, added to every row.
    pub bias: Option<Region>,
    pub y: Region,
    pub accumulate: bool,
    /// Whether k may be cut into slices. Off where results of several products are compared bit by bit.
    pub split_k: bool,
    /// Whether mixed precision may round the inputs to f16. Off for gradients, which may lie below what f16 holds, and
    /// where results of several products are compared.
    pub may_round: bool,
}

/// The constants, parameters and grid that every kernel of a product begins with.
pub struct Launch {
    pub consts: Vec<(&'static str, u32)>,
    pub params: Vec<Param>,
    pub groups: usize,
    /// Slices along k, each with a whole result of its own.
    pub slices: usize,
}

/// Inner elements that a slice has at least.
const K_SLICE: usize = 256;
/// Tiles times slices that keep an adapter busy: workgroups of a GPU, lanes of vectors on the host's cores.
const BUSY: usize = 512;

impl Gemm {
    pub fn new(form: Matmul, sizes: Sizes, a: Region, b: Region, y: Region) -> Self {
        Gemm { form, sizes, a, b, bias: None, y, accumulate: false, split_k: true, may_round: false }
    }

    pub fn launch(&self, limits: GpuLimits) -> Launch {
        let Sizes { batch, m, n, k } = self.sizes;
        let subgroup = limits.matrix_subgroup.filter(|_| self.may_round && m >= 16 && n >= 16);
        let (tile, lanes, mut consts) = match (limits.adapter, subgroup) {
            (_, Some(subgroup)) => ([64, 32], 1, vec![("TILES", 2), ("SUBGROUP", subgroup)]),
            (AdapterClass::Hardware, None) => {
                let [tile_m, tile_n, thread] = gpu_tile(self.sizes);
                let consts = vec![("TILES", 0), ("TILE_M", tile_m), ("TILE_N", tile_n), ("THREAD_TILE", thread)];
                ([tile_m, tile_n], 1, consts)
            }
            (AdapterClass::Software, None) => {
                let [rows, columns] = register_blocks(self.sizes);
                let consts = vec![("TILES", 1), ("ROW_BLOCKS", rows), ("COLUMN_BLOCKS", columns)];
                ([4 * rows, 4 * columns], 8, consts)
            }
        };
        let tiles = batch * m.div_ceil(tile[0] as usize) * n.div_ceil(tile[1] as usize);
        // A bias belongs to the sum of the slices, not to each.
        let most = if self.split_k && self.bias.is_none() { k / K_SLICE } else { 1 };
        let k_slice = k.div_ceil((BUSY / tiles.max(1)).min(most).max(1)).next_multiple_of(16);
        let slices = k.div_ceil(k_slice.max(1)).max(1);
        let (a_width, b_width) = (if self.form.trans_a { m } else { k }, if self.form.trans_b { k } else { n });
        consts.extend([("TRANS_A", u32::from(self.form.trans_a)), ("TRANS_B", u32::from(self.form.trans_b))]);
        let in_quads = |width: usize| u32::from(width.is_multiple_of(4));
        consts.extend([("VEC4_A", in_quads(a_width)), ("VEC4_B", in_quads(b_width)), ("VEC4_Y", in_quads(n))]);
        let params = [m, n, k, batch, k_slice, slices * batch].map(Param::from).into();
        Launch { consts, params, groups: (tiles * slices).div_ceil(lanes), slices }
    }
}

/// Rows and columns of a workgroup's tile, and of a thread's square part of it. 64x64 does most arithmetic per load;
/// smaller outputs want more workgroups, thin ones thin tiles.
fn gpu_tile(Sizes { batch, m, n, k }: Sizes) -> [u32; 3] {
    let large = batch * m.div_ceil(64) * n.div_ceil(64) * (k / K_SLICE).max(1);
    match (m, n) {
        (..=16, _) => [16, 64, 4],
        (_, ..=16) => [64, 16, 4],
        _ if large < 128 => [32, 32, 4],
        _ => [64, 64, 8],
    }
}

/// Rows and columns of a thread's tile, in quads. Small products, of which most tests are made, take the small tile: it is
/// compiled in a tenth of the time.
fn register_blocks(Sizes { batch, m, n, k }: Sizes) -> [u32; 2] {
    let quads = |len: usize| if len <= 8 { 1 } else { 4 };
    if batch * m * n * k < 1 << 20 { [1, 1] } else { [quads(m), quads(n)] }
}
