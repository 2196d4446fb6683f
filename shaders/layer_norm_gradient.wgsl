// dsum of LayerNorm; a thread owns a row.
//include grid
struct Params { rows: u32, width: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> dy: array<f32>;             // (rows, width)
@group(0) @binding(2) var<storage, read> sums: array<f32>;           // (rows, width)
@group(0) @binding(3) var<storage, read> stats: array<f32>;          // (rows, 2): mean, rstd
@group(0) @binding(4) var<storage, read> weight: array<f32>;         // (width)
@group(0) @binding(5) var<storage, read> further: array<f32>;        // (rows, width) when FURTHER
@group(0) @binding(6) var<storage, read_write> dsum: array<f32>;     // (rows, width)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = flat_group(group) * 64u + lane;
    if (row < p.rows) {
        let base = row * p.width;
        let mean = stats[2u * row];
        let rstd = stats[2u * row + 1u];
        var mean_g = 0.0;
        var mean_gx = 0.0;
        for (var d = 0u; d < p.width; d += 1u) {
            let g = dy[base + d] * weight[d];
            mean_g += g;
            mean_gx += g * (sums[base + d] - mean) * rstd;
        }
        mean_g /= f32(p.width);
        mean_gx /= f32(p.width);
        for (var d = 0u; d < p.width; d += 1u) {
            let xhat = (sums[base + d] - mean) * rstd;
            var gradient = rstd * (dy[base + d] * weight[d] - mean_g - xhat * mean_gx);
            if (FURTHER == 1u) {
                gradient += further[base + d];
            }
            dsum[base + d] = gradient;
        }
    }
}
