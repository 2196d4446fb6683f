// dtable[item] += sum over the item's places of dscore * hidden row; a thread owns one column of one item's row.
//include grid
struct Params { places: u32, per_row: u32, width: u32, first: u32, items: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> dscore: array<f32>;           // (places)
@group(0) @binding(2) var<storage, read> hidden: array<f32>;           // (places / per_row, width)
@group(0) @binding(3) var<storage, read> segments: array<u32>;         // (3 places + 2): see ops/embedding.rs
@group(0) @binding(4) var<storage, read_write> dtable: array<f32>;     // (items from `first` on, width)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    let segment = i / p.width;
    let d = i % p.width;
    if (segment < segments[0]) {
        let item = segments[2u * p.places + 2u + segment];
        if (item >= p.first && item - p.first < p.items) {
            let start = 1u + p.places + segment;
            var sum = 0.0;
            for (var k = segments[start]; k < segments[start + 1u]; k += 1u) {
                let place = segments[1u + k];
                sum += dscore[place] * hidden[(place / p.per_row) * p.width + d];
            }
            dtable[(item - p.first) * p.width + d] += sum;
        }
    }
}
