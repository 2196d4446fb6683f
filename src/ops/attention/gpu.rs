//! The dispatches of attention: what the kernels ask of a row, then one kernel forward and two backward.
//!
//! The kernels read quads of columns. Heads of other widths are filled up with zeros first, and the results cut.

use super::Attention;
use crate::engine::exec::gpu::kernel::{Access, Access::Read, Access::Write, AdapterClass, GpuBuilder, Region, Shader};
use crate::ops::dropout::drop_params;
use crate::shader;

/// Rows that a workgroup of a GPU owns, one per thread.
const GROUP: usize = 64;
/// The threads of a software adapter are the lanes of one vector, and a read costs them far more than a multiply-add. So a
/// thread owns several rows and reads each word of the other side once for all of them; and where lanes can hand values to
/// each other, some own neighbouring rows of a head and read a few quads each. More rows that walk together would go
/// through more that a causal mask hides from them, and more rows of a thread are more code.
const SOFTWARE_LANES: usize = 8;
const SOFTWARE_ROWS: usize = 4;
const SOFTWARE_PART: usize = 4;
/// Heads of more quads get the plainest code, one row per thread and a loop over the keys, since it is long as it is and
/// compilers are slow.
const WIDE_QUADS: usize = 16;

/// What the kernels of a node share.
struct Setting<'a> {
    op: &'a Attention,
    rows: usize,
    /// Columns of a head, and those of the kernels.
    width: usize,
    padded: usize,
    /// `q`, `k`, `v` in whole quads, then what is asked of a row.
    operands: [Region; 4],
}

impl<'a> Setting<'a> {
    fn new(op: &'a Attention, b: &mut GpuBuilder) -> Self {
        let (rows, width) = (b.inputs[0].shape[0], op.head_dim(b.inputs[0]));
        let mut setting = Setting { op, rows, width, padded: width.next_multiple_of(4), operands: [b.input(0); 4] };
        for i in 0..3 {
            let input = b.input(i);
            setting.operands[i] = setting.widened(b, input);
        }
        setting.operands[3] = gather_rows(op, b);
        setting
    }

    /// A tensor like `q` in whole quads.
    fn widened(&self, b: &mut GpuBuilder, x: Region) -> Region {
        let wide = self.target(b, x);
        self.change_width(b, (x, self.width), (wide, self.padded));
        wide
    }

    /// Where a kernel writes an output like `q`; `narrowed` brings it home.
    fn target(&self, b: &mut GpuBuilder, output: Region) -> Region {
        if self.padded == self.width { output } else { b.scratch(self.rows * self.op.heads * self.padded) }
    }

    fn narrowed(&self, b: &mut GpuBuilder, target: Region, output: Region) {
        self.change_width(b, (target, self.padded), (output, self.width));
    }

    fn change_width(&self, b: &mut GpuBuilder, from: (Region, usize), to: (Region, usize)) {
        if from == to {
            return;
        }
        let params = [to.0.len.into(), from.1.into(), to.1.into()];
        b.dispatch(shader!("attention_pad"), &[], &[(from.0, Read), (to.0, Write)], &params, to.0.len.div_ceil(64));
    }

    /// How many threads read a passing row together (`SHARE`), each its part of the quads.
    fn share(&self, b: &GpuBuilder) -> usize {
        let (quads, lanes) = (self.padded / 4, SOFTWARE_LANES as u32);
        let can_hand = b.limits.adapter == AdapterClass::Software && b.limits.subgroup == Some(lanes);
        let most = if can_hand { quads / SOFTWARE_PART } else { 1 };
        let powers = (0..=lanes.ilog2()).map(|power| 1 << power);
        powers.rev().find(|share| *share <= most && quads % share == 0).unwrap_or(1)
    }

    fn run(&self, b: &mut GpuBuilder, shader: Shader, more_bindings: &[(Region, Access)]) {
        let (quads, software) = (self.padded / 4, b.limits.adapter == AdapterClass::Software);
        let (wide, share) = (quads > WIDE_QUADS, self.share(b));
        let rows = if software && !wide { SOFTWARE_ROWS } else { 1 };
        let lanes = if software { SOFTWARE_LANES } else { GROUP };
        let most_heads = if software { (lanes / share).ilog2() } else { 0 };
        let heads = 1 << self.op.heads.trailing_zeros().min(most_heads);
        let [site, threshold, keep_scale] = drop_params(self.op.dropout);
        let consts = [
            ("QUADS", quads as u32),
            ("ROWS", rows as u32),
            ("LANES", lanes as u32),
            ("HEADS", heads as u32),
            ("SHARE", share as u32),
            ("PART", (quads / share) as u32),
            ("TOGETHER", u32::from(share > 1)),
            ("STAGED", u32::from(!software)),
            ("WRITTEN_OUT", u32::from(!software && !wide)),
            ("PASSING", if software || wide { 1 } else { 4 }),
            ("DROPOUT", u32::from(self.op.dropout.is_some())),
        ];
        let params = [
            self.rows.into(),
            self.op.heads.into(),
            self.op.scale.into(),
            self.op.causal.into(),
            site,
            threshold,
            keep_scale,
            self.op.key_flags.into(),
        ];
        let mut bindings = self.operands.map(|region| (region, Read)).to_vec();
        bindings.extend(more_bindings);
        b.dispatch(
            shader,
            &consts,
            &bindings,
            &params,
            self.rows.div_ceil(lanes / heads * rows) * (self.op.heads / heads),
        );
    }
}

/// What the kernels ask of a row.
fn gather_rows(op: &Attention, b: &mut GpuBuilder) -> Region {
    let (rows, dropout) = (b.inputs[0].shape[0], op.dropout.is_some());
    let info = b.scratch(4 * (1 + rows));
    let borders = b.input(3);
    let flags = if op.key_flags { b.input(4) } else { borders };
    let [rng, keys] = if dropout { [b.input(op.rng_at()), b.input(op.rng_at() + 1)] } else { [borders; 2] };
    let params = [rows.into(), (borders.len - 1).into(), op.key_flags.into(), dropout.into()];
    let bindings = [(borders, Read), (flags, Read), (rng, Read), (keys, Read), (info, Write)];
    b.dispatch(shader!("attention_rows"), &[], &bindings, &params, rows.div_ceil(64).max(1));
    info
}

pub(super) fn forward(op: &Attention, b: &mut GpuBuilder) {
    let setting = Setting::new(op, b);
    let y = setting.target(b, b.output(0));
    let bindings = [(y, Write), (b.output(1), Write)];
    setting.run(b, shader!("attention"), &bindings);
    setting.narrowed(b, y, b.output(0));
}

pub(super) fn backward(op: &Attention, b: &mut GpuBuilder) {
    let setting = Setting::new(op, b);
    let [y, lse, dy] = [0, 1, 2].map(|i| b.input(op.arity() + i));
    let stats = b.scratch(2 * lse.len);
    let sizes = [lse.len.into(), setting.width.into()];
    let bindings = [(y, Read), (dy, Read), (lse, Read), (stats, Write)];
    b.dispatch(shader!("attention_stats"), &[], &bindings, &sizes, lse.len.div_ceil(64));

    let dy = setting.widened(b, dy);
    let [dq, dk, dv] = [0, 1, 2].map(|i| setting.target(b, b.output(i)));
    setting.run(b, shader!("attention_query_gradient"), &[(stats, Read), (dy, Read), (dq, Write)]);
    let bindings = [(stats, Read), (dy, Read), (dk, Write), (dv, Write)];
    setting.run(b, shader!("attention_key_gradient"), &bindings);
    (0..3).zip([dq, dk, dv]).for_each(|(i, target)| setting.narrowed(b, target, b.output(i)));
}
