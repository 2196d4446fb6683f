//! The recurrence on a GPU: a workgroup owns a sequence and goes through its steps, the state in workgroup memory.

use super::{Gru, Reset};
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Update, Access::Write, GpuBuilder, Region};
use crate::shader;

fn consts(op: Gru, hidden: usize) -> [(&'static str, u32); 2] {
    [("BEFORE", u32::from(op.reset == Reset::Before)), ("HIDDEN", hidden as u32)]
}

pub(super) fn forward(op: Gru, b: &mut GpuBuilder) {
    let (rows, sequences, hidden) = (b.inputs[0].rows(), b.inputs[1].rows(), b.inputs[1].width());
    let [y, h_n, gates, previous] = [0, 1, 2, 3].map(|i| b.output(i));
    let (h0, borders) = (b.input(1), b.input(2));
    let mut bindings: Vec<_> = (0..5).map(|i| (b.input(i), Read)).collect();
    bindings.extend([(y, Update), (gates, Update), (previous, Update)]);
    let params = [sequences.into(), rows.into()];
    b.dispatch(shader!("gru"), &consts(op, hidden), &bindings, &params, sequences);
    // Eight storage buffers are all that every adapter allows: the last states are gathered behind.
    let bindings = [(y, Read), (h0, Read), (borders, Read), (h_n, Write)];
    let params = [h_n.len.into(), hidden.into()];
    b.dispatch(shader!("gru_last"), &[], &bindings, &params, h_n.len.div_ceil(64));
}

pub(super) fn backward(op: Gru, b: &mut GpuBuilder) {
    let (rows, hidden, sequences) = (b.inputs[1].rows(), b.inputs[1].width(), b.inputs[6].rows());
    let [gates, previous, borders, u, c, dy, dh_n] = [0, 1, 2, 3, 4, 5, 6].map(|i| b.input(i));
    let (dx, dh0) = (b.output(0), b.output(1));
    // dh0 begins as dh_n, so that both are one binding.
    let params = [dh_n.len.into(), 0u32.into(), 0u32.into()];
    b.dispatch(shader!("copy_words"), &[], &[(dh_n, Read), (dh0, Update)], &params, dh_n.len.div_ceil(64));
    let mut bindings = vec![(gates, Read), (previous, Read), (borders, Read), (u, Read)];
    if op.reset == Reset::Before {
        bindings.push((c, Read));
    } else {
        // The bias is not read; the kernel has its binding.
        bindings.push((u, Read));
    }
    bindings.extend([(dy, Read), (dx, Update), (dh0, Update)]);
    let params = [sequences.into(), rows.into()];
    b.dispatch(shader!("gru_gradient"), &consts(op, hidden), &bindings, &params, sequences);
    match op.reset {
        Reset::After => {
            let bindings = [(dx, Read), (gates, Read), (b.output(2), Write)];
            b.dispatch(shader!("gru_reset"), &[], &bindings, &[dx.len.into(), hidden.into()], dx.len.div_ceil(64));
        }
        Reset::Before => {
            columns(b, (dx, 3 * hidden), (0, 2 * hidden), b.output(2));
            columns(b, (dx, 3 * hidden), (2 * hidden, hidden), b.output(3));
            columns(b, (gates, 4 * hidden), (3 * hidden, hidden), b.output(4));
        }
    }
}

/// Copies columns of rows of some width.
fn columns(b: &mut GpuBuilder, (x, width): (Region, usize), (first, count): (usize, usize), y: Region) {
    let params = [y.len.into(), width.into(), first.into(), count.into()];
    b.dispatch(shader!("copy_columns"), &[], &[(x, Read), (y, Write)], &params, y.len.div_ceil(64));
}
