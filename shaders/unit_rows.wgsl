// y = x / |x|; a workgroup owns a row.
//include grid
//include reduce
struct Params { rows: u32, width: u32, eps2: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;                    // (rows, width)
@group(0) @binding(2) var<storage, read_write> y: array<f32>;              // (rows, width)
@group(0) @binding(3) var<storage, read_write> inverse_norm: array<f32>;   // (rows)

const REDUCE_LANES = 64u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = min(flat_group(group), p.rows - 1u);
    let base = row * p.width;
    var sum = 0.0;
    for (var d = lane; d < p.width; d += 64u) {
        sum += x[base + d] * x[base + d];
    }
    let whole = workgroup_sum(lane, sum);
    let factor = 1.0 / sqrt(whole + p.eps2);
    for (var d = lane; d < p.width; d += 64u) {
        y[base + d] = x[base + d] * factor;
    }
    if (lane == 0u) {
        inverse_norm[row] = factor;
    }
}
