// The targets' scores: diagonals of blocks of 64 queries times 64 targets, plus the targets' bias.
//include grid
struct Params { rows: u32, has_bias: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> pairs: array<f32>;         // (blocks, 64, 64)
@group(0) @binding(2) var<storage, read> targets: array<u32>;       // (rows); 0xffffffff is none
@group(0) @binding(3) var<storage, read> bias: array<f32>;          // (items) when has_bias
@group(0) @binding(4) var<storage, read_write> own: array<f32>;     // (rows)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = flat_group(group) * 64u + lane;
    if (row < p.rows) {
        let t = targets[row];
        var score = pairs[row * 64u + row % 64u];
        if (p.has_bias == 1u && t != 0xffffffffu) {
            score += bias[t];
        }
        own[row] = score;
    }
}
