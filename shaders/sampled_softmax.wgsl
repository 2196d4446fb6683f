// loss = log sum exp(scores) - score of column 0, over the candidates that exist; a thread owns a row.
//include grid
struct Params { rows: u32, width: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> scores: array<f32>;           // (rows, width)
@group(0) @binding(2) var<storage, read> ids: array<u32>;              // (rows, width), 0xffffffff: none
@group(0) @binding(3) var<storage, read_write> loss: array<f32>;       // (rows)
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;        // (rows)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = flat_group(group) * 64u + lane;
    if (row < p.rows) {
        let base = row * p.width;
        var largest = -1e30;
        for (var i = base; i < base + p.width; i += 1u) {
            largest = max(largest, select(scores[i], -1e30, ids[i] == 0xffffffffu));
        }
        var sum = 0.0;
        for (var i = base; i < base + p.width; i += 1u) {
            sum += select(exp(min(scores[i] - largest, 0.0)), 0.0, ids[i] == 0xffffffffu);
        }
        let none = ids[base] == 0xffffffffu;
        let log_sum = log(max(sum, 1e-30));
        loss[row] = select((largest - scores[base]) + log_sum, 0.0, none);
        lse[row] = select(largest + log_sum, 0.0, none);
    }
}
