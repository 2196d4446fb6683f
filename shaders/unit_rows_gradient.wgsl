// dx = (dy - y <y, dy>) / |x|; a workgroup owns a row.
//include grid
struct Params { rows: u32, width: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> dy: array<f32>;               // (rows, width)
@group(0) @binding(2) var<storage, read> y: array<f32>;                // (rows, width)
@group(0) @binding(3) var<storage, read> inverse_norm: array<f32>;     // (rows)
@group(0) @binding(4) var<storage, read_write> dx: array<f32>;         // (rows, width)

var<workgroup> partial: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = min(flat_group(group), p.rows - 1u);
    let base = row * p.width;
    var sum = 0.0;
    for (var d = lane; d < p.width; d += 64u) {
        sum += y[base + d] * dy[base + d];
    }
    partial[lane] = sum;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half /= 2u) {
        if (lane < half) {
            partial[lane] += partial[lane + half];
        }
        workgroupBarrier();
    }
    let along = partial[0];
    for (var d = lane; d < p.width; d += 64u) {
        dx[base + d] = (dy[base + d] - y[base + d] * along) * inverse_norm[row];
    }
}
