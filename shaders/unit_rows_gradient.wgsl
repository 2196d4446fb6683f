// dx = (dy - y <y, dy>) / |x|; a workgroup owns a row.
//include grid
//include reduce
struct Params { rows: u32, width: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> dy: array<f32>;               // (rows, width)
@group(0) @binding(2) var<storage, read> y: array<f32>;                // (rows, width)
@group(0) @binding(3) var<storage, read> inverse_norm: array<f32>;     // (rows)
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;         // (rows, width)

const REDUCE_LANES = 64u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = min(flat_group(group), p.rows - 1u);
    let base = row * p.width;
    var sum = 0.0;
    for (var d = lane; d < p.width; d += 64u) {
        sum += y[base + d] * dy[base + d];
    }
    let whole = workgroup_sum(lane, sum);
    let along = whole;
    for (var d = lane; d < p.width; d += 64u) {
        dx[base + d] = (dy[base + d] - y[base + d] * along) * inverse_norm[row];
    }
}
