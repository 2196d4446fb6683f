// dweight = sum of dy xhat, dbias = sum of dy, by column; a workgroup owns a column.
//include grid
//include reduce
struct Params { rows: u32, width: u32, second: u32, eps: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> dy: array<f32>;               // (rows, width)
@group(0) @binding(2) var<storage, read> x: array<f32>;                // (rows, width)
@group(0) @binding(3) var<storage, read> statistics: array<f32>;       // (2, second): means, variances
@group(0) @binding(4) var<storage, read_write> dweight: array<f32>;    // (width)
@group(0) @binding(5) var<storage, read_write> dbias: array<f32>;      // (width)

const REDUCE_LANES = 256u;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let column = min(flat_group(group), p.width - 1u);
    let mean = statistics[column];
    let rstd = 1.0 / sqrt(statistics[p.second + column] + p.eps);
    var by_xhat = 0.0;
    var plain = 0.0;
    for (var row = lane; row < p.rows; row += REDUCE_LANES) {
        let i = row * p.width + column;
        by_xhat += dy[i] * (x[i] - mean) * rstd;
        plain += dy[i];
    }
    let sum_by_xhat = workgroup_sum(lane, by_xhat);
    let sum = workgroup_sum(lane, plain);
    if (lane == 0u) {
        dweight[column] = sum_by_xhat;
        dbias[column] = sum;
    }
}
