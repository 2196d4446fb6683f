// y = x * keep / (1 - p), one element per thread. Used by ops/dropout.rs and by the gradient in ops/layer_norm.rs.
//include grid
//include philox
struct Params { len: u32, width: u32, site: u32, threshold: u32, keep_scale: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;            // (rows, width), len elements
@group(0) @binding(2) var<storage, read> rng: array<u32>;          // (4)
@group(0) @binding(3) var<storage, read> row_keys: array<u32>;     // (rows, 2): sequence, position
@group(0) @binding(4) var<storage, read_write> y: array<f32>;      // (rows, width)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    if (i < p.len) {
        let row = i / p.width;
        let state = vec4<u32>(rng[0], rng[1], rng[2], rng[3]);
        let word = rng_word(state, p.site, row_keys[2u * row], row_keys[2u * row + 1u], i % p.width);
        y[i] = select(0.0, x[i] * p.keep_scale, word >= p.threshold);
    }
}
