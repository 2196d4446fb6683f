// Gathers the targets' rows of a chunk of the table; the first chunk writes zeros for all others.
//include grid
struct Params { rows: u32, width: u32, first: u32, len: u32, words: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> weight: array<f32>;             // (len, width)
@group(0) @binding(2) var<storage, read> targets: array<u32>;            // (rows); 0xffffffff is none
@group(0) @binding(3) var<storage, read_write> gathered: array<f32>;     // (rows up to a multiple of 64, width)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    if (i < p.words) {
        let row = i / p.width;
        let t = select(0xffffffffu, targets[min(row, p.rows - 1u)], row < p.rows);
        let inside = t >= p.first && t - p.first < p.len;
        if (inside || p.first == 0u) {
            gathered[i] = select(0.0, weight[select(0u, (t - p.first) * p.width + i % p.width, inside)], inside);
        }
    }
}
