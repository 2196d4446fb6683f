// dhidden (+)= sum over a row's items of dscore * item row, one element per thread. The table comes in pieces: the first
// dispatch writes, the others add.
//include grid
struct Params { len: u32, per_row: u32, width: u32, first: u32, items: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> dscore: array<f32>;           // (rows, per_row)
@group(0) @binding(2) var<storage, read> table: array<f32>;            // (items from `first` on, width)
@group(0) @binding(3) var<storage, read> ids: array<u32>;              // (rows, per_row)
@group(0) @binding(4) var<storage, read_write> dhidden: array<f32>;    // (rows, width), len elements

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    if (i < p.len) {
        let row = i / p.width;
        let d = i % p.width;
        var sum = 0.0;
        if (p.first > 0u) {
            sum = dhidden[i];
        }
        for (var place = row * p.per_row; place < (row + 1u) * p.per_row; place += 1u) {
            let id = ids[place];
            if (id >= p.first && id - p.first < p.items) {
                sum += dscore[place] * table[(id - p.first) * p.width + d];
            }
        }
        dhidden[i] = sum;
    }
}
