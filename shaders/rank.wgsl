// Counts the items of a chunk that rank before each row's target: greater score, or equal with a lower index.
// A workgroup owns a row, so that sums over chunks need no atomics.
//include grid
struct Params { rows: u32, len: u32, first: u32, is_first: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> z: array<f32>;                    // (rows, len)
@group(0) @binding(2) var<storage, read> targets: array<u32>;              // (rows); 0xffffffff is none
@group(0) @binding(3) var<storage, read> own: array<f32>;                  // (rows): the targets' scores
@group(0) @binding(4) var<storage, read> seen_offsets: array<u32>;         // (rows + 1)
@group(0) @binding(5) var<storage, read> seen: array<u32>;                 // ascending within a row
@group(0) @binding(6) var<storage, read_write> better: array<u32>;         // (rows)
@group(0) @binding(7) var<storage, read_write> better_seen: array<u32>;    // (rows)
@group(0) @binding(8) var<storage, read_write> ties: array<u32>;           // (rows)

var<workgroup> lanes: array<vec3<u32>, 64>;    // better, better_seen, ties

fn ranks_before(score: f32, item: u32, own_score: f32, t: u32) -> bool {
    return item != t && (score > own_score || (score == own_score && item < t));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let inside = flat_group(group) < p.rows;
    let row = select(0u, flat_group(group), inside);
    let t = targets[row];
    let own_score = own[row];
    var counts = vec3<u32>(0u);
    if (t != 0xffffffffu) {
        for (var i = lane; i < p.len; i += 64u) {
            let score = z[row * p.len + i];
            let item = p.first + i;
            counts.x += select(0u, 1u, ranks_before(score, item, own_score, t));
            counts.z += select(0u, 1u, item != t && score == own_score);
        }
        for (var s = seen_offsets[row] + lane; s < seen_offsets[row + 1u]; s += 64u) {
            let item = seen[s];
            let here = item >= p.first && item - p.first < p.len;
            let score = z[row * p.len + select(0u, item - p.first, here)];
            counts.y += select(0u, 1u, here && ranks_before(score, item, own_score, t));
        }
    }
    lanes[lane] = counts;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half /= 2u) {
        if (lane < half) {
            lanes[lane] += lanes[lane + half];
        }
        workgroupBarrier();
    }
    if (lane == 0u && inside) {
        var total = lanes[0];
        if (p.is_first == 0u) {
            total += vec3<u32>(better[row], better_seen[row], ties[row]);
        }
        better[row] = total.x;
        better_seen[row] = total.y;
        ties[row] = total.z;
    }
}
