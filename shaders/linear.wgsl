// Y = residual + dropout(f(X W^T + bias)): the product of gemm.wgsl with what follows it, done in its store.
//include activation
//include grid
//include gemm_operands
//include gemm_tiles if TILES=0
//include gemm_registers if TILES=1
//include gemm_matrices if TILES=2
//include gemm_words if VEC4_Y=0
//include gemm_quads if VEC4_Y=1
//include linear_words if VEC4_Y=0
//include linear_quads if VEC4_Y=1
//include math
//include philox
struct Params {
    m: u32, n: u32, k: u32, batch: u32, k_slice: u32, slabs: u32,
    site: u32, threshold: u32, keep_scale: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;         // (m, k): X
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;         // (n, k): W
@group(0) @binding(3) var<storage, read> bias: array<f32>;            // (n) when BIAS
@group(0) @binding(6) var<storage, read> residual: array<f32>;        // (m, n) when RESIDUAL
@group(0) @binding(7) var<storage, read> rng: array<u32>;             // (4) when DROPOUT
@group(0) @binding(8) var<storage, read> row_keys: array<u32>;        // (m, 2): sequence, position

fn put(base: u32, row: u32, column: u32, product: vec4<f32>) {
    if (row < p.m && column < p.n) {
        let i = row * p.n + column;
        let columns = clamped(column, p.n);
        var value = product;
        if (BIAS == 1u) {
            value += vec4<f32>(bias[columns.x], bias[columns.y], bias[columns.z], bias[columns.w]);
        }
        if (ACTIVATION == 1u) {
            put_pre(i, column, value);
            value = vec4<f32>(
                activation_value(value.x), activation_value(value.y), activation_value(value.z), activation_value(value.w));
        }
        if (DROPOUT == 1u) {
            let state = vec4<u32>(rng[0], rng[1], rng[2], rng[3]);
            let words = rng_block(state, p.site, row_keys[2u * row], row_keys[2u * row + 1u], column / 4u);
            value = select(vec4<f32>(0.0), value * p.keep_scale, words >= vec4<u32>(p.threshold));
        }
        if (RESIDUAL == 1u) {
            let at = row * p.n + columns;
            value += vec4<f32>(residual[at.x], residual[at.y], residual[at.z], residual[at.w]);
        }
        put_y(i, column, value);
    }
}
