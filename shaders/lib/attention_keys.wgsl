// Keys and values as they pass by a thread that owns query rows.
var<workgroup> key_tile: array<vec4<f32>, TILE * QUADS>;
var<workgroup> value_tile: array<vec4<f32>, TILE * QUADS>;

// Behind the last key that a query may see.
fn keys_end(query: vec4<u32>, row: u32) -> u32 {
    return select(query.y, min(query.y, row + 1u), p.causal == 1u && (query.w & 2u) == 0u);
}

// The keys that some row of the workgroup may see, the same in all its threads: from .x to before .y.
fn keys_of_group(place: Place) -> vec2<u32> {
    let first = info[1u + place.first].x;
    let end = info[1u + place.last].y;
    let causal_end = select(end, min(end, place.last + 1u), p.causal == 1u && p.flags == 0u);
    return vec2<u32>(first, select(first, causal_end, place.live));
}

fn stage_keys(tile: u32, head: u32, lane: u32) {
    for (var i = lane; i < TILE * QUADS; i += LANES) {
        let at = own_quad(min(tile + i / QUADS, p.rows - 1u), head) + i % QUADS;
        key_tile[i] = k[at];
        value_tile[i] = v[at];
    }
    for (var i = lane; i < TILE; i += LANES) {
        word_tile[i] = info[1u + min(tile + i, p.rows - 1u)].w;
    }
}

fn words_of(rows: vec4<u32>, tile: u32) -> vec4<u32> {
    return vec4<u32>(
        passing_word(rows.x, tile), passing_word(rows.y, tile), passing_word(rows.z, tile), passing_word(rows.w, tile));
}

// How many of the next keys are taken at once: with dropout no more than share a block of random words, as a rule.
fn run_of_keys(words: vec4<u32>, left: u32) -> u32 {
    return min(left, select(4u, 4u - ((words.x >> 2u) & 3u), DROPOUT == 1u));
}

// Which of the keys j .. j + 4 a query sees; `end` bounds the query's keys and those of the run.
fn seen_keys(query: vec4<u32>, j: u32, end: u32, words: vec4<u32>) -> vec4<bool> {
    // A key before the query's sequence wraps around to a large number.
    let inside = vec4<u32>(j - query.x) + FOUR < vec4<u32>(max(end, query.x) - query.x);
    return inside & (((words | vec4<u32>(query.w >> 1u)) & vec4<u32>(1u)) != vec4<u32>(0u));
}

// For each of four keys: what dropout makes of 1.
fn keep_factors(query: vec4<u32>, head: u32, words: vec4<u32>) -> vec4<f32> {
    if (DROPOUT == 0u) {
        return vec4<f32>(1.0);
    }
    let keep = (vec4<u32>(kept(query, head, words)) & FOUR_BITS) != vec4<u32>(0u);
    return select(vec4<f32>(0.0), vec4<f32>(p.keep_scale), keep);
}
