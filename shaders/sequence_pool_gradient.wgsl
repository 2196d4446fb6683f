// dx = share w dy, dw = share <x - y, dy> (of the sum: <x, dy>). A workgroup owns a row.
//include grid
//include reduce
//include sequences
struct Params { rows: u32, width: u32, sequences: u32, mean: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;                 // (rows, width)
@group(0) @binding(2) var<storage, read> weight: array<f32>;            // (rows)
@group(0) @binding(3) var<storage, read> cu_seqlens: array<u32>;        // (sequences + 1)
@group(0) @binding(4) var<storage, read> y: array<f32>;                 // (sequences, width)
@group(0) @binding(5) var<storage, read> share: array<f32>;             // (sequences)
@group(0) @binding(6) var<storage, read> dy: array<f32>;                // (sequences, width)
@group(0) @binding(7) var<storage, read_write> dx: array<f32>;          // (rows, width)
@group(0) @binding(8) var<storage, read_write> dweight: array<f32>;     // (rows)

const REDUCE_LANES = 64u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let n = min(flat_group(group), p.rows - 1u);
    let found = sequence_of(n, p.sequences);
    let s = min(found, p.sequences - 1u);
    let factor = select(0.0, share[s], found < p.sequences);
    var along = 0.0;
    for (var d = lane; d < p.width; d += 64u) {
        let cotangent = dy[s * p.width + d];
        let centre = select(0.0, y[s * p.width + d], p.mean == 1u);
        along += (x[n * p.width + d] - centre) * cotangent;
        dx[n * p.width + d] = select(0.0, factor * weight[n] * cotangent, found < p.sequences);
    }
    let whole = workgroup_sum(lane, along);
    if (lane == 0u) {
        dweight[n] = select(0.0, factor * whole, found < p.sequences);
    }
}
