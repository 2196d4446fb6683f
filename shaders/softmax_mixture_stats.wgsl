// Folds a chunk of scores into each row's running maximum and sum of exponentials. A workgroup owns a row.
//include grid
//include reduce
struct Params { rows: u32, len: u32, is_first: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> z: array<f32>;              // (rows, len)
@group(0) @binding(2) var<storage, read_write> stats: array<f32>;    // (rows, 2): maximum, sum

const REDUCE_LANES = 64u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let inside = flat_group(group) < p.rows;
    let row = min(flat_group(group), p.rows - 1u);
    var largest = -1e30;
    for (var i = lane; i < p.len; i += 64u) {
        largest = max(largest, z[row * p.len + i]);
    }
    let here = workgroup_max(lane, largest);
    let before = select(stats[2u * row], -1e30, p.is_first == 1u);
    let all = max(before, here);
    var sum = 0.0;
    for (var i = lane; i < p.len; i += 64u) {
        sum += exp(z[row * p.len + i] - all);
    }
    let whole = workgroup_sum(lane, sum);
    if (lane == 0u && inside) {
        let more = select(stats[2u * row + 1u] * exp(before - all), 0.0, p.is_first == 1u);
        stats[2u * row] = all;
        stats[2u * row + 1u] = whole + more;
    }
}
