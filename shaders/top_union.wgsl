// Masks of what either of two short lists names (top_union.rs). One candidate per thread.
//include grid
struct Params { rows: u32, width: u32, candidates: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<u32>;                  // (rows, width)
@group(0) @binding(2) var<storage, read> b: array<u32>;                  // (rows, width)
@group(0) @binding(3) var<storage, read_write> kept: array<f32>;         // (rows, candidates)
@group(0) @binding(4) var<storage, read_write> absence: array<f32>;      // (rows, candidates)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    if (i < p.rows * p.candidates) {
        let first = (i / p.candidates) * p.width;
        let place = i % p.candidates;
        var named = false;
        for (var k = first; k < first + p.width; k += 1u) {
            named = named || a[k] == place || b[k] == place;
        }
        kept[i] = select(0.0, 1.0, named);
        absence[i] = select(-1e30, 0.0, named);
    }
}
