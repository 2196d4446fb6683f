// Y = f(X W^T + bias): the product of gemm.wgsl with what follows it, done in its store.
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
struct Params { m: u32, n: u32, k: u32, batch: u32, k_slice: u32, slabs: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;         // (m, k): X
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;         // (n, k): W
@group(0) @binding(3) var<storage, read> bias: array<f32>;            // (n) when BIAS

fn put(base: u32, row: u32, column: u32, product: vec4<f32>) {
    if (row < p.m && column < p.n) {
        let i = row * p.n + column;
        let columns = clamped(column, p.n);
        var value = product;
        if (BIAS == 1u) {
            value += vec4<f32>(bias[columns.x], bias[columns.y], bias[columns.z], bias[columns.w]);
        }
        put_pre(i, column, value);
        value = vec4<f32>(
            activation_value(value.x), activation_value(value.y), activation_value(value.z), activation_value(value.w));
        put_y(i, column, value);
    }
}
