// Softmax or its logarithm over the last axis; a thread owns a row.
//include grid
struct Params { rows: u32, width: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;          // (rows, width)
@group(0) @binding(2) var<storage, read_write> y: array<f32>;    // (rows, width)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = flat_group(group) * 64u + lane;
    if (row < p.rows) {
        let first = row * p.width;
        let end = first + p.width;
        var peak = x[first];
        for (var i = first; i < end; i += 1u) {
            peak = max(peak, x[i]);
        }
        var total = 0.0;
        for (var i = first; i < end; i += 1u) {
            let e = exp(x[i] - peak);
            total += e;
            y[i] = select(e, x[i] - peak, LOG == 1u);
        }
        let log_total = log(total);
        let inverse = 1.0 / total;
        for (var i = first; i < end; i += 1u) {
            y[i] = select(y[i] * inverse, y[i] - log_total, LOG == 1u);
        }
    }
}
