// Y = A B (+ bias) (+ Y) for row-major matrices, batched, with split-K. A word of Y is one chain of fused multiply-adds
// over k in ascending order (per slice), in every tile and for every adapter.
//include grid
//include gemm_operands
//include gemm_tiles if TILES=0
//include gemm_registers if TILES=1
//include gemm_matrices if TILES=2
//include gemm_words if VEC4_Y=0
//include gemm_quads if VEC4_Y=1
struct Params { m: u32, n: u32, k: u32, batch: u32, k_slice: u32, slabs: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;    // (batch, m, k), or (batch, k, m) when TRANS_A
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;    // (batch, k, n), or (batch, n, k) when TRANS_B
@group(0) @binding(3) var<storage, read> bias: array<f32>;       // (n) when BIAS

// Stores four neighbours of a row. Flags are constants because software adapters run both sides of a branch.
fn put(base: u32, row: u32, column: u32, value: vec4<f32>) {
    if (row < p.m && column < p.n) {
        let i = base + row * p.n + column;
        var sum = value;
        if (BIAS == 1u) {
            let columns = clamped(column, p.n);
            sum += vec4<f32>(bias[columns.x], bias[columns.y], bias[columns.z], bias[columns.w]);
        }
        if (ACCUMULATE == 1u) {
            sum += y_quad(i, column);
        }
        put_y(i, column, sum);
    }
}
