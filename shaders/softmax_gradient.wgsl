// dx of softmax, y (dy - <y, dy>), or of its logarithm, dy - exp(y) sum(dy); a thread owns a row.
//include grid
struct Params { rows: u32, width: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> y: array<f32>;           // (rows, width)
@group(0) @binding(2) var<storage, read> dy: array<f32>;          // (rows, width)
@group(0) @binding(3) var<storage, read_write> dx: array<f32>;    // (rows, width)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = flat_group(group) * 64u + lane;
    if (row < p.rows) {
        let first = row * p.width;
        let end = first + p.width;
        var sum = 0.0;
        for (var i = first; i < end; i += 1u) {
            sum += dy[i] * select(y[i], 1.0, LOG == 1u);
        }
        for (var i = first; i < end; i += 1u) {
            if (LOG == 1u) {
                dx[i] = dy[i] - exp(y[i]) * sum;
            } else {
                dx[i] = y[i] * (dy[i] - sum);
            }
        }
    }
}
