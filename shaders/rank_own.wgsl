// The targets' scores, from the scores of all items; 0 where there is no target.
//include grid
struct Params { rows: u32, items: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> scores: array<f32>;        // (rows, items)
@group(0) @binding(2) var<storage, read> targets: array<u32>;       // (rows); 0xffffffff is none
@group(0) @binding(3) var<storage, read_write> own: array<f32>;     // (rows)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = flat_group(group) * 64u + lane;
    if (row < p.rows) {
        let t = targets[row];
        let known = t != 0xffffffffu;
        own[row] = select(0.0, scores[row * p.items + select(0u, t, known)], known);
    }
}
