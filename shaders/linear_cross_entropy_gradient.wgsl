// Turns a chunk of logits into dz = dloss (exp(z - lse) - [v = target]) in place. Rows without a target and items behind
// the vocabulary get 0. One element per thread.
//include grid
struct Params { rows: u32, len: u32, first: u32, items: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> z: array<f32>;      // (rows, len)
@group(0) @binding(2) var<storage, read> targets: array<u32>;      // (rows); 0xffffffff is none
@group(0) @binding(3) var<storage, read> lse: array<f32>;          // (rows)
@group(0) @binding(4) var<storage, read> dloss: array<f32>;        // (rows)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    if (i < p.rows * p.len) {
        let row = i / p.len;
        let item = p.first + i % p.len;
        let t = targets[row];
        let probability = exp(min(z[i] - lse[row], 1.0));
        let dz = dloss[row] * (probability - select(0.0, 1.0, item == t));
        z[i] = select(dz, 0.0, t == 0xffffffffu || item >= p.items);
    }
}
