// y_n = 1/width sum_d (a_nd - b_nd)^2; a workgroup owns a row.
//include grid
//include reduce
struct Params { rows: u32, width: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;          // (rows, width)
@group(0) @binding(2) var<storage, read> b: array<f32>;          // (rows, width)
@group(0) @binding(3) var<storage, read_write> y: array<f32>;    // (rows)

const REDUCE_LANES = 64u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = min(flat_group(group), p.rows - 1u);
    var sum = 0.0;
    for (var d = lane; d < p.width; d += 64u) {
        let difference = a[row * p.width + d] - b[row * p.width + d];
        sum += difference * difference;
    }
    let whole = workgroup_sum(lane, sum);
    if (lane == 0u) {
        y[row] = whole / f32(p.width);
    }
}
