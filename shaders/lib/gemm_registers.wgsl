// The product for software adapters: a thread owns a tile of 16x16, 16x4, 4x16 or 4x4 in registers (ROW_BLOCKS and
// COLUMN_BLOCKS times 4) and reads its operands straight from memory. There a load is a loop over the lanes of a vector
// that costs far more than a multiply-add, from workgroup memory too, so what counts is multiply-adds per load.
// Measured on lavapipe 22.3.6 (AVX-512 Xeon; GFLOP per CPU-second at 12800x64x64 NT): tiles in workgroup memory 64x64x16,
// 8x8 per thread 2.1; registers only: 8x8 4.2, 16x8 4.5, 16x16 5.8, 32x16 6.6, but that takes three times as long to compile
// (3 s). Neighbouring threads along columns beat rows by a tenth; words instead of vec4 in one operand cost a quarter.
fn a_rows(base: u32, rows: vec4<u32>, l: vec4<u32>, k_end: u32) -> mat4x4<f32> {
    return until(k_end, l, a_block(base, rows, min(l, vec4<u32>(p.k - 1u))));
}

@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let tiles_n = (p.n + 4u * COLUMN_BLOCKS - 1u) / (4u * COLUMN_BLOCKS);
    let tiles = tiles_n * ((p.m + 4u * ROW_BLOCKS - 1u) / (4u * ROW_BLOCKS));
    let index = flat_group(group) * 8u + lane;
    let inside = index / tiles < p.slabs;
    let slab = select(0u, index / tiles, inside);    // slice * batch + z
    let z = slab % p.batch;
    let k_first = (slab / p.batch) * p.k_slice;
    let k_end = min(p.k, k_first + p.k_slice);
    let row = ((index % tiles) / tiles_n) * (4u * ROW_BLOCKS);
    let column = ((index % tiles) % tiles_n) * (4u * COLUMN_BLOCKS);
    let a_base = z * p.m * p.k;
    let b_base = z * p.k * p.n;
    let rows0 = clamped(row, p.m);
    let rows1 = clamped(row + 4u, p.m);
    let rows2 = clamped(row + 8u, p.m);
    let rows3 = clamped(row + 12u, p.m);
    let columns0 = clamped(column, p.n);
    let columns1 = clamped(column + 4u, p.n);
    let columns2 = clamped(column + 8u, p.n);
    let columns3 = clamped(column + 12u, p.n);

    var c00: mat4x4<f32>; var c01: mat4x4<f32>; var c02: mat4x4<f32>; var c03: mat4x4<f32>;
    var c10: mat4x4<f32>; var c11: mat4x4<f32>; var c12: mat4x4<f32>; var c13: mat4x4<f32>;
    var c20: mat4x4<f32>; var c21: mat4x4<f32>; var c22: mat4x4<f32>; var c23: mat4x4<f32>;
    var c30: mat4x4<f32>; var c31: mat4x4<f32>; var c32: mat4x4<f32>; var c33: mat4x4<f32>;
    for (var first = k_first; first < k_end; first += 4u) {
        let l = vec4<u32>(first) + vec4<u32>(0u, 1u, 2u, 3u);
        let l_b = min(l, vec4<u32>(p.k - 1u));
        var u1: mat4x4<f32>; var u2: mat4x4<f32>; var u3: mat4x4<f32>;
        let u0 = a_rows(a_base, rows0, l, k_end);
        if (ROW_BLOCKS == 4u) {
            u1 = a_rows(a_base, rows1, l, k_end);
            u2 = a_rows(a_base, rows2, l, k_end);
            u3 = a_rows(a_base, rows3, l, k_end);
        }
        let v0 = b_block(b_base, l_b, columns0);
        c00 = product(c00, u0, v0);
        if (ROW_BLOCKS == 4u) {
            c10 = product(c10, u1, v0);
            c20 = product(c20, u2, v0);
            c30 = product(c30, u3, v0);
        }
        if (COLUMN_BLOCKS == 4u) {
            let v1 = b_block(b_base, l_b, columns1);
            c01 = product(c01, u0, v1);
            if (ROW_BLOCKS == 4u) {
                c11 = product(c11, u1, v1);
                c21 = product(c21, u2, v1);
                c31 = product(c31, u3, v1);
            }
            let v2 = b_block(b_base, l_b, columns2);
            c02 = product(c02, u0, v2);
            if (ROW_BLOCKS == 4u) {
                c12 = product(c12, u1, v2);
                c22 = product(c22, u2, v2);
                c32 = product(c32, u3, v2);
            }
            let v3 = b_block(b_base, l_b, columns3);
            c03 = product(c03, u0, v3);
            if (ROW_BLOCKS == 4u) {
                c13 = product(c13, u1, v3);
                c23 = product(c23, u2, v3);
                c33 = product(c33, u3, v3);
            }
        }
    }

    // The rows of blocks move up one by one: a store with its epilogue stands here 16 times, not 64.
    let base = slab * p.m * p.n;
    for (var i = 0u; i < ROW_BLOCKS; i += 1u) {
        let block_row = select(p.m, row + 4u * i, inside);
        put_block(base, block_row, column, c00);
        if (COLUMN_BLOCKS == 4u) {
            put_block(base, block_row, column + 4u, c01);
            put_block(base, block_row, column + 8u, c02);
            put_block(base, block_row, column + 12u, c03);
        }
        if (ROW_BLOCKS == 4u) {
            c00 = c10; c01 = c11; c02 = c12; c03 = c13;
            c10 = c20; c11 = c21; c12 = c22; c13 = c23;
            c20 = c30; c21 = c31; c22 = c32; c23 = c33;
        }
    }
}
