// What the three attention kernels share. A thread owns ROWS packed rows of one head, whose operands and sums stay in
// registers. The rows of the other side (keys for a query, queries for a key) pass by: STAGED = 1 brings them into workgroup
// memory, TILE at a time (attention_staged); STAGED = 0 reads them where they are (attention_spread), since to a software
// adapter all memory is the same, and a barrier costs more than many reads.
struct Params { rows: u32, heads: u32, scale: f32, causal: u32, site: u32, threshold: u32, keep_scale: f32, flags: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> q: array<vec4<f32>>;       // (rows, heads, QUADS)
@group(0) @binding(2) var<storage, read> k: array<vec4<f32>>;       // (rows, heads, QUADS)
@group(0) @binding(3) var<storage, read> v: array<vec4<f32>>;       // (rows, heads, QUADS)
@group(0) @binding(4) var<storage, read> info: array<vec4<u32>>;    // (1 + rows), see attention_rows

// 8 KiB for two operands, so that several workgroups fit on a core.
const TILE = min(64u, 256u / QUADS / 4u * 4u);
const FOUR = vec4<u32>(0u, 1u, 2u, 3u);
const FOUR_BITS = vec4<u32>(1u, 2u, 4u, 8u);

var<workgroup> word_tile: array<u32, TILE>;

// Where a thread works: its first head and row, and the first and the last row of those that walk together; `live` is
// false behind the end of the rows or of a folded grid.
struct Place { head: u32, first: u32, last: u32, live: bool }

// The first quad of a row, of those that pass by or of the own ones.
fn passing_quad(row: u32, tile: u32, head: u32) -> u32 {
    return select(row * p.heads + head, row - tile, STAGED == 1u) * QUADS;
}

fn own_quad(row: u32, head: u32) -> u32 {
    return (row * p.heads + head) * QUADS;
}

// Position and flags of a row that passes by.
fn passing_word(row: u32, tile: u32) -> u32 {
    if (STAGED == 1u) {
        return word_tile[row - tile];
    }
    return info[1u + row].w;
}

// Which of four keys a query keeps, as bits. Neighbouring positions share a block of random words, so one or two blocks are
// drawn as a rule, four at worst.
fn kept(query: vec4<u32>, head: u32, key_words: vec4<u32>) -> u32 {
    let features = vec4<u32>(head << 20u) | (key_words >> vec4<u32>(2u));
    let blocks = features >> vec4<u32>(2u);
    let lanes = features & vec4<u32>(3u);
    var bits = vec4<u32>(0u);
    var missing = vec4<bool>(true);
    var block = blocks.x;
    loop {
        let words = rng_block(info[0], p.site, query.z, query.w >> 2u, block);
        let drawn = vec4<u32>(
            rng_lane(words, lanes.x), rng_lane(words, lanes.y), rng_lane(words, lanes.z), rng_lane(words, lanes.w));
        let now = blocks == vec4<u32>(block);
        bits |= select(vec4<u32>(0u), FOUR_BITS, now & (drawn >= vec4<u32>(p.threshold)));
        missing &= !now;
        block = select(select(blocks.w, blocks.z, missing.z), blocks.y, missing.y);
        continuing {
            break if !any(missing);
        }
    }
    return bits.x | bits.y | bits.z | bits.w;
}
