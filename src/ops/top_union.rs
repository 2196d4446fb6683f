//! The union of two short lists of candidates as masks over all of them: DRL-Rec's explored items, the best by the teacher and
//! the best by the student.

use crate::engine::case::{Builder, Case, Kernel};
use crate::engine::exec::cpu::CpuIo;
use crate::engine::exec::gpu::kernel::{Access::Read, Access::Write, GpuBuilder};
use crate::engine::op::{Cost, Op, expect};
use crate::engine::tensor::{Array, DType, TensorType};
use crate::error::Result;
use crate::ops::tiles::LOWEST;
use crate::shader;

/// Inputs `a[B, K]`, `b[B, K]` (u32): places among the `candidates` of each row, `NONE` for nothing. Outputs, `[B, candidates]`:
/// `kept`, 1 for what either names and 0 for the rest; `absence`, 0 and -1e30, to be added to scores. No gradient.
#[derive(Clone, Copy, Debug)]
pub struct TopUnion {
    /// Candidates of a row.
    pub candidates: usize,
}

impl Op for TopUnion {
    fn name(&self) -> &'static str {
        "top_union"
    }

    fn infer(&self, inputs: &[&TensorType]) -> Result<Vec<TensorType>> {
        let fits = inputs[0] == inputs[1] && inputs[0].dtype == DType::U32 && inputs[0].shape.len() == 2;
        expect("top_union", fits, || format!("a is {}, b {}", inputs[0], inputs[1]))?;
        Ok(vec![TensorType::f32(&[inputs[0].rows(), self.candidates]); 2])
    }

    fn reference(&self, inputs: &[&Array], outputs: &mut [Array]) {
        let width = inputs[0].width();
        for (n, (a, b)) in inputs[0].u().chunks(width).zip(inputs[1].u().chunks(width)).enumerate() {
            for place in 0..self.candidates {
                let kept = a.contains(&(place as u32)) || b.contains(&(place as u32));
                outputs[0].f_mut()[n * self.candidates + place] = if kept { 1.0 } else { 0.0 };
                outputs[1].f_mut()[n * self.candidates + place] = if kept { 0.0 } else { f64::from(LOWEST) };
            }
        }
    }

    fn cpu(&self, io: &mut CpuIo) {
        let (width, candidates) = (io.inputs[0].width(), self.candidates);
        let [kept, absence] = &mut io.outputs[..] else { unreachable!("inferred") };
        kept.f().fill(0.0);
        absence.f().fill(LOWEST);
        let named = io.inputs[0].u().chunks(width).zip(io.inputs[1].u().chunks(width));
        for (n, (a, b)) in named.enumerate() {
            for place in a.iter().chain(b).map(|place| *place as usize).filter(|place| *place < candidates) {
                kept.f()[n * candidates + place] = 1.0;
                absence.f()[n * candidates + place] = 0.0;
            }
        }
    }

    fn gpu(&self, b: &mut GpuBuilder) {
        let (rows, width) = (b.inputs[0].rows(), b.inputs[0].width());
        let bindings = [(b.input(0), Read), (b.input(1), Read), (b.output(0), Write), (b.output(1), Write)];
        let params = [rows.into(), width.into(), self.candidates.into()];
        b.dispatch(shader!("top_union"), &[], &bindings, &params, (rows * self.candidates).div_ceil(64));
    }

    fn cost(&self, inputs: &[&TensorType], outputs: &[&TensorType]) -> Cost {
        Cost::new(0, inputs, outputs)
    }
}

pub(crate) const KERNELS: &[Kernel] = &[("top_union", build)];

fn build(b: &mut Builder) -> Result<()> {
    let inputs = [b.input("a")?, b.input("b")?];
    let outputs = b.graph.add(TopUnion { candidates: b.attr_usize("candidates")? }, &inputs)?;
    b.output("kept", outputs[0]);
    b.output("absence", outputs[1]);
    Ok(())
}

pub(crate) fn cases() -> Vec<Case> {
    let case = |name: &str, rows: usize, candidates: usize, a: &[u32], b: &[u32]| {
        let shape = [rows, a.len() / rows];
        Case::new(KERNELS[0], name).attr("candidates", candidates).ids("a", &shape, a).ids("b", &shape, b)
    };
    let many = |step: u32| (0..65u32).flat_map(|row| [0, 1, 2].map(|k| (row * step + 3 * k) % 9)).collect::<Vec<u32>>();
    vec![
        case("one and the same", 1, 1, &[0], &[0]),
        case("some in common", 2, 10, &[1, 2, 3, 9, 8, 7], &[3, 4, 1, 0, 1, 2]),
        case("nothing at the end", 1, 5, &[4, u32::MAX], &[2, 4]),
        case("65 rows", 65, 9, &many(2), &many(5)),
    ]
}
