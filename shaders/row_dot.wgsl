// score = <hidden row, item row>, one place per thread. The table comes in pieces: each dispatch writes the places whose
// item lies in its piece; the first also writes 0 for all others.
//include grid
struct Params { places: u32, per_row: u32, width: u32, first: u32, items: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> hidden: array<f32>;           // (places / per_row, width)
@group(0) @binding(2) var<storage, read> table: array<f32>;            // (items from `first` on, width)
@group(0) @binding(3) var<storage, read> ids: array<u32>;              // (places)
@group(0) @binding(4) var<storage, read_write> score: array<f32>;      // (places)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let place = flat_group(group) * 64u + lane;
    if (place < p.places) {
        let id = ids[place];
        let inside = id >= p.first && id - p.first < p.items;
        let item = select(0u, id - p.first, inside) * p.width;
        let row = (place / p.per_row) * p.width;
        var sum = 0.0;
        if (inside) {
            for (var d = 0u; d < p.width; d += 1u) {
                sum += hidden[row + d] * table[item + d];
            }
        }
        if (inside || p.first == 0u) {
            score[place] = sum;
        }
    }
}
