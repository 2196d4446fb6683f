// y = x * keep / (1 - p). A thread owns four features of a row, which share one Philox block.
//include grid
//include philox
struct Params { len: u32, width: u32, site: u32, threshold: u32, keep_scale: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;            // (rows, width), len elements
@group(0) @binding(2) var<storage, read> rng: array<u32>;          // (4)
@group(0) @binding(3) var<storage, read> row_keys: array<u32>;     // (rows, 2): sequence, position
@group(0) @binding(4) var<storage, read_write> y: array<f32>;      // (rows, width)

fn put(row: u32, column: u32, word: u32) {
    if (column < p.width) {
        let i = row * p.width + column;
        y[i] = select(0.0, x[i] * p.keep_scale, word >= p.threshold);
    }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let blocks = (p.width + 3u) / 4u;
    let i = flat_group(group) * 64u + lane;
    let row = i / blocks;
    let block = i % blocks;
    if (row < p.len / p.width) {
        let state = vec4<u32>(rng[0], rng[1], rng[2], rng[3]);
        let words = rng_block(state, p.site, row_keys[2u * row], row_keys[2u * row + 1u], block);
        put(row, 4u * block, words.x);
        put(row, 4u * block + 1u, words.y);
        put(row, 4u * block + 2u, words.z);
        put(row, 4u * block + 3u, words.w);
    }
}
