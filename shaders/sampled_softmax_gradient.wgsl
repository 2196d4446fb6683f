// dscore = dloss (exp(score - lse) - [column 0]), 0 where there is no item; one element per thread.
//include grid
struct Params { len: u32, width: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> scores: array<f32>;           // (rows, width), len elements
@group(0) @binding(2) var<storage, read> ids: array<u32>;              // (rows, width), 0xffffffff: none
@group(0) @binding(3) var<storage, read> lse: array<f32>;              // (rows)
@group(0) @binding(4) var<storage, read> dloss: array<f32>;            // (rows)
@group(0) @binding(5) var<storage, read_write> dscores: array<f32>;    // (rows, width)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    if (i < p.len) {
        let row = i / p.width;
        let none = ids[i] == 0xffffffffu || ids[row * p.width] == 0xffffffffu;
        let onehot = select(0.0, 1.0, i == row * p.width);
        dscores[i] = select(dloss[row] * (exp(min(scores[i] - lse[row], 1.0)) - onehot), 0.0, none);
    }
}
