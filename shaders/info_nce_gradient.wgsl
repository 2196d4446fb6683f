// Turns logits into the factors c G of the gradient, in place, one element per thread. No exponent is positive by more
// than rounding where it counts; min() keeps a skipped or rounded one finite.
//include grid
struct Params { columns: u32, len: u32, first: u32, scale: f32, shift: u32, by_row: u32, by_column: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> lse: array<f32>;              // (columns)
@group(0) @binding(2) var<storage, read> dloss: array<f32>;            // (1)
@group(0) @binding(3) var<storage, read_write> logits: array<f32>;     // (rows of this block, columns), len elements

fn term(wanted: u32, s: f32, lse_of_row: f32, partner: f32) -> f32 {
    return select(0.0, exp(min(s - lse_of_row, 1.0)) - partner, wanted == 1u);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let index = flat_group(group) * 64u + lane;
    if (index < p.len) {
        let i = p.first + index / p.columns;
        let j = index % p.columns;
        let s = p.scale * logits[index];
        let partner = select(0.0, 1.0, j == (i + p.shift) % p.columns);
        let factor = term(p.by_row, s, lse[i], partner) + term(p.by_column, s, lse[j], partner);
        let c = dloss[0] * p.scale / f32(p.columns);
        logits[index] = select(c * factor, 0.0, p.shift > 0u && i == j);
    }
}
