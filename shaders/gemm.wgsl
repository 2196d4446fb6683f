// Y = A B (+ bias) (+ Y) for row-major matrices, batched, with split-K.
// A workgroup of 64 threads owns a 64x64 tile of Y; a thread owns 8x8 of it in registers. Slices of 16 along K are staged
// in workgroup memory with four consecutive rows of A (columns of B) per vec4, so that the inner loop reads only vec4.
//include grid
struct Params { m: u32, n: u32, k: u32, batch: u32, k_slice: u32, has_bias: u32, accumulate: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;          // (batch, m, k), or (batch, k, m) when TRANS_A
@group(0) @binding(2) var<storage, read> b: array<f32>;          // (batch, k, n), or (batch, n, k) when TRANS_B
@group(0) @binding(3) var<storage, read> bias: array<f32>;       // (n)
@group(0) @binding(4) var<storage, read_write> y: array<f32>;    // (slices, batch, m, n)

var<workgroup> a_tile: array<vec4<f32>, 256>;    // (16 along k, 16 quads of rows)
var<workgroup> b_tile: array<vec4<f32>, 256>;    // (16 along k, 16 quads of columns)

fn a_at(base: u32, row: u32, l: u32, k_end: u32) -> f32 {
    let inside = row < p.m && l < k_end;
    let index = select(row * p.k + l, l * p.m + row, TRANS_A == 1u);
    return select(0.0, a[select(0u, base + index, inside)], inside);
}

fn b_at(base: u32, l: u32, column: u32, k_end: u32) -> f32 {
    let inside = column < p.n && l < k_end;
    let index = select(l * p.n + column, column * p.k + l, TRANS_B == 1u);
    return select(0.0, b[select(0u, base + index, inside)], inside);
}

fn store(base: u32, row: u32, column: u32, value: f32) {
    if (row < p.m && column < p.n) {
        let i = base + row * p.n + column;
        var sum = value;
        if (p.has_bias == 1u) {
            sum += bias[column];
        }
        if (p.accumulate == 1u) {
            sum += y[i];
        }
        y[i] = sum;
    }
}

fn store4(base: u32, row: u32, column: u32, value: vec4<f32>) {
    store(base, row, column, value.x);
    store(base, row, column + 1u, value.y);
    store(base, row, column + 2u, value.z);
    store(base, row, column + 3u, value.w);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let tiles_m = (p.m + 63u) / 64u;
    let tiles_n = (p.n + 63u) / 64u;
    let tiles = tiles_m * tiles_n;
    let index = flat_group(group);
    let slab = index / tiles;                  // slice * batch + z
    let z = slab % p.batch;
    let k_first = (slab / p.batch) * p.k_slice;
    let k_end = min(p.k, k_first + p.k_slice);
    let row0 = ((index % tiles) / tiles_n) * 64u;
    let column0 = ((index % tiles) % tiles_n) * 64u;
    let a_base = z * p.m * p.k;
    let b_base = z * p.k * p.n;
    let ty = lane / 8u;
    let tx = lane % 8u;

    var c0: vec4<f32>; var c1: vec4<f32>; var c2: vec4<f32>; var c3: vec4<f32>;
    var c4: vec4<f32>; var c5: vec4<f32>; var c6: vec4<f32>; var c7: vec4<f32>;
    var d0: vec4<f32>; var d1: vec4<f32>; var d2: vec4<f32>; var d3: vec4<f32>;
    var d4: vec4<f32>; var d5: vec4<f32>; var d6: vec4<f32>; var d7: vec4<f32>;

    for (var k0 = k_first; k0 < k_first + p.k_slice; k0 += 16u) {
        for (var i = 0u; i < 4u; i += 1u) {
            let quad = lane + 64u * i;
            // Neighbouring threads read neighbouring words: along k for a row-major operand, else along the other axis.
            let a_k = select(quad % 16u, quad / 16u, TRANS_A == 1u);
            let a_quad = select(quad / 16u, quad % 16u, TRANS_A == 1u);
            let row = row0 + 4u * a_quad;
            a_tile[a_k * 16u + a_quad] = vec4<f32>(
                a_at(a_base, row, k0 + a_k, k_end), a_at(a_base, row + 1u, k0 + a_k, k_end),
                a_at(a_base, row + 2u, k0 + a_k, k_end), a_at(a_base, row + 3u, k0 + a_k, k_end));
            let b_k = select(quad / 16u, quad % 16u, TRANS_B == 1u);
            let b_quad = select(quad % 16u, quad / 16u, TRANS_B == 1u);
            let column = column0 + 4u * b_quad;
            b_tile[b_k * 16u + b_quad] = vec4<f32>(
                b_at(b_base, k0 + b_k, column, k_end), b_at(b_base, k0 + b_k, column + 1u, k_end),
                b_at(b_base, k0 + b_k, column + 2u, k_end), b_at(b_base, k0 + b_k, column + 3u, k_end));
        }
        workgroupBarrier();
        for (var l = 0u; l < 16u; l += 1u) {
            let u = a_tile[l * 16u + 2u * ty];
            let v = a_tile[l * 16u + 2u * ty + 1u];
            let s = b_tile[l * 16u + 2u * tx];
            let t = b_tile[l * 16u + 2u * tx + 1u];
            c0 += u.x * s; d0 += u.x * t;
            c1 += u.y * s; d1 += u.y * t;
            c2 += u.z * s; d2 += u.z * t;
            c3 += u.w * s; d3 += u.w * t;
            c4 += v.x * s; d4 += v.x * t;
            c5 += v.y * s; d5 += v.y * t;
            c6 += v.z * s; d6 += v.z * t;
            c7 += v.w * s; d7 += v.w * t;
        }
        workgroupBarrier();
    }

    let base = slab * p.m * p.n;
    let row = row0 + 8u * ty;
    let column = column0 + 8u * tx;
    store4(base, row, column, c0);      store4(base, row, column + 4u, d0);
    store4(base, row + 1u, column, c1); store4(base, row + 1u, column + 4u, d1);
    store4(base, row + 2u, column, c2); store4(base, row + 2u, column + 4u, d2);
    store4(base, row + 3u, column, c3); store4(base, row + 3u, column + 4u, d3);
    store4(base, row + 4u, column, c4); store4(base, row + 4u, column + 4u, d4);
    store4(base, row + 5u, column, c5); store4(base, row + 5u, column + 4u, d5);
    store4(base, row + 6u, column, c6); store4(base, row + 6u, column + 4u, d6);
    store4(base, row + 7u, column, c7); store4(base, row + 7u, column + 4u, d7);
}
