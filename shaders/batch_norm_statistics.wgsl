// Mean and biased variance of each column; a workgroup owns a column, and writes zeros where there is none.
//include grid
//include reduce
struct Params { rows: u32, width: u32, second: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;                   // (rows, width)
@group(0) @binding(2) var<storage, read_write> statistics: array<f32>;    // (2, second): means, variances

const REDUCE_LANES = 256u;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let column = flat_group(group);
    let rows = select(0u, p.rows, column < p.width);
    var sum = 0.0;
    for (var row = lane; row < rows; row += REDUCE_LANES) {
        sum += x[row * p.width + column];
    }
    let mean = workgroup_sum(lane, sum) / f32(p.rows);
    var squares = 0.0;
    for (var row = lane; row < rows; row += REDUCE_LANES) {
        let centred = x[row * p.width + column] - mean;
        squares += centred * centred;
    }
    let variance = workgroup_sum(lane, squares) / f32(p.rows);
    if (lane == 0u && column < p.second) {
        statistics[column] = mean;
        statistics[p.second + column] = variance;
    }
}
