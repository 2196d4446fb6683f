// What the cross attention kernels ask of a query, gathered once. places[0] holds the random state;
// places[1 + query] = (first row of its sequence, the row behind its last, logical sequence, position).
//include grid
struct Params { queries: u32, per_sequence: u32, has_keys: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> cu_seqlens: array<u32>;            // (queries / per_sequence + 1)
@group(0) @binding(2) var<storage, read> rng: array<u32>;                   // (4) when has_keys
@group(0) @binding(3) var<storage, read> row_keys: array<u32>;              // (queries, 2) when has_keys
@group(0) @binding(4) var<storage, read_write> places: array<vec4<u32>>;    // (1 + queries)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let query = flat_group(group) * 64u + lane;
    let keyed = p.has_keys == 1u;
    if (query == 0u) {
        let at = select(vec4<u32>(0u), vec4<u32>(0u, 1u, 2u, 3u), keyed);
        places[0] = vec4<u32>(rng[at.x], rng[at.y], rng[at.z], rng[at.w]);
    }
    if (query < p.queries) {
        let sequence = query / p.per_sequence;
        let key = select(vec2<u32>(0u), vec2<u32>(2u * query, 2u * query + 1u), keyed);
        places[1u + query] =
            vec4<u32>(cu_seqlens[sequence], cu_seqlens[sequence + 1u], row_keys[key.x], row_keys[key.y]);
    }
}
