// What the cross attention kernels share: their sizes and inputs, and a query's keys.
struct Params {
    queries: u32,
    per_sequence: u32,
    rows: u32,
    heads: u32,
    width: u32,
    scale: f32,
    own_keys: u32,
    site: u32,
    threshold: u32,
    keep_scale: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> q: array<f32>;               // (queries, heads, width)
@group(0) @binding(2) var<storage, read> k: array<f32>;               // (rows, heads, width)
@group(0) @binding(3) var<storage, read> v: array<f32>;               // (rows, heads, width)
@group(0) @binding(4) var<storage, read> places: array<vec4<u32>>;    // (1 + queries): see cross_attention_places

// How many keys a query has; its own is the last.
fn key_count(place: vec4<u32>) -> u32 {
    return place.y - place.x + p.own_keys;
}

// The row of a query's key number `at`.
fn key_row(query: u32, place: vec4<u32>, at: u32) -> u32 {
    return select(place.x + at, p.rows - p.queries + query, at >= place.y - place.x);
}

fn score(query: u32, row: u32, head: u32) -> f32 {
    let a = (query * p.heads + head) * p.width;
    let b = (row * p.heads + head) * p.width;
    var sum = 0.0;
    for (var d = 0u; d < p.width; d += 1u) {
        sum += q[a + d] * k[b + d];
    }
    return p.scale * sum;
}

// What dropout multiplies the probability of key number `at` by.
fn keep_factor(place: vec4<u32>, head: u32, at: u32) -> f32 {
    if (DROPOUT == 0u) {
        return 1.0;
    }
    let word = rng_word(places[0], p.site, place.z, place.w, (head << 20u) | at);
    return select(0.0, p.keep_scale, word >= p.threshold);
}
