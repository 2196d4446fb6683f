// Gives the items of each row's history the lowest score, in place. A workgroup owns a row.
//include grid
struct Params { rows: u32, len: u32, first: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> seen_offsets: array<u32>;    // (rows + 1)
@group(0) @binding(2) var<storage, read> seen: array<u32>;            // items of row n from seen_offsets[n] on
@group(0) @binding(3) var<storage, read_write> z: array<f32>;         // (rows, len)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = flat_group(group);
    if (row < p.rows) {
        for (var s = seen_offsets[row] + lane; s < seen_offsets[row + 1u]; s += 64u) {
            let item = seen[s];
            if (item >= p.first && item - p.first < p.len) {
                z[row * p.len + item - p.first] = -1e30;
            }
        }
    }
}
