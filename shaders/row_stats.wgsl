// Mean and 1/sqrt(variance + eps) of each row; a thread owns a row.
//include grid
struct Params { rows: u32, width: u32, eps: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;              // (rows, width)
@group(0) @binding(2) var<storage, read_write> stats: array<f32>;    // (rows, 2): mean, rstd

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = flat_group(group) * 64u + lane;
    if (row < p.rows) {
        let base = row * p.width;
        var mean = 0.0;
        for (var d = 0u; d < p.width; d += 1u) {
            mean += x[base + d];
        }
        mean /= f32(p.width);
        var variance = 0.0;
        for (var d = 0u; d < p.width; d += 1u) {
            let centred = x[base + d] - mean;
            variance += centred * centred;
        }
        stats[2u * row] = mean;
        stats[2u * row + 1u] = 1.0 / sqrt(variance / f32(p.width) + p.eps);
    }
}
