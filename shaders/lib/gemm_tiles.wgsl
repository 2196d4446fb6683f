// The product for GPUs: a workgroup of 64 threads owns a tile of TILE_M x TILE_N; a thread owns 8x8 of it (THREAD_TILE = 8)
// or 4x4 in registers. Slices of 16 along K are staged in workgroup memory with four consecutive rows of A (columns of B)
// per vec4. A thread's two quads of rows (columns) lie half a tile apart, so that neighbours touch neighbouring vec4.
const A_QUADS = TILE_M / 4u;
const B_QUADS = TILE_N / 4u;
// One vec4 more per inner index, against bank conflicts while staging.
const A_STRIDE = A_QUADS + 1u;
const B_STRIDE = B_QUADS + 1u;

var<workgroup> a_tile: array<vec4<f32>, 16u * A_STRIDE>;    // (16 along k, quads of rows)
var<workgroup> b_tile: array<vec4<f32>, 16u * B_STRIDE>;    // (16 along k, quads of columns)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let tiles_n = (p.n + TILE_N - 1u) / TILE_N;
    let tiles = tiles_n * ((p.m + TILE_M - 1u) / TILE_M);
    let index = flat_group(group);
    let inside = index / tiles < p.slabs;
    let slab = select(0u, index / tiles, inside);    // slice * batch + z
    let z = slab % p.batch;
    let k_first = (slab / p.batch) * p.k_slice;
    let k_end = min(p.k, k_first + p.k_slice);
    let row0 = ((index % tiles) / tiles_n) * TILE_M;
    let column0 = ((index % tiles) % tiles_n) * TILE_N;
    let a_base = z * p.m * p.k;
    let b_base = z * p.k * p.n;
    // A thread stages one 4x4 block of each operand; neighbours read neighbouring words.
    let a_k = 4u * select(lane % 4u, lane / A_QUADS, TRANS_A == 1u);
    let a_quad = select(lane / 4u, lane % A_QUADS, TRANS_A == 1u);
    let b_k = 4u * select(lane / B_QUADS, lane % 4u, TRANS_B == 1u);
    let b_quad = select(lane % B_QUADS, lane / 4u, TRANS_B == 1u);
    let rows = clamped(row0 + 4u * a_quad, p.m);
    let columns = clamped(column0 + 4u * b_quad, p.n);
    let threads_n = TILE_N / THREAD_TILE;
    let ty = lane / threads_n;
    let tx = lane % threads_n;
    let four = vec4<u32>(0u, 1u, 2u, 3u);
    let last = vec4<u32>(p.k - 1u);

    var c00: mat4x4<f32>; var c01: mat4x4<f32>; var c10: mat4x4<f32>; var c11: mat4x4<f32>;
    for (var first = k_first; first < k_first + p.k_slice; first += 16u) {
        if (lane < TILE_M) {
            let l = vec4<u32>(first + a_k) + four;
            let block = until(k_end, l, a_block(a_base, rows, min(l, last)));
            let at = a_k * A_STRIDE + a_quad;
            a_tile[at] = block[0];
            a_tile[at + A_STRIDE] = block[1];
            a_tile[at + 2u * A_STRIDE] = block[2];
            a_tile[at + 3u * A_STRIDE] = block[3];
        }
        if (lane < TILE_N) {
            let l = vec4<u32>(first + b_k) + four;
            let block = until(k_end, l, b_block(b_base, min(l, last), columns));
            let at = b_k * B_STRIDE + b_quad;
            b_tile[at] = block[0];
            b_tile[at + B_STRIDE] = block[1];
            b_tile[at + 2u * B_STRIDE] = block[2];
            b_tile[at + 3u * B_STRIDE] = block[3];
        }
        workgroupBarrier();
        for (var l = 0u; l < 16u; l += 1u) {
            let u0 = a_tile[l * A_STRIDE + ty];
            let v0 = b_tile[l * B_STRIDE + tx];
            c00 = outer(c00, u0, v0);
            if (THREAD_TILE == 8u) {
                let u1 = a_tile[l * A_STRIDE + ty + A_QUADS / 2u];
                let v1 = b_tile[l * B_STRIDE + tx + B_QUADS / 2u];
                c01 = outer(c01, u0, v1);
                c10 = outer(c10, u1, v0);
                c11 = outer(c11, u1, v1);
            }
        }
        workgroupBarrier();
    }

    let base = slab * p.m * p.n;
    let row = select(p.m, row0 + 4u * ty, inside);
    let column = column0 + 4u * tx;
    put_block(base, row, column, c00);
    if (THREAD_TILE == 8u) {
        put_block(base, row, column + TILE_N / 2u, c01);
        put_block(base, row + TILE_M / 2u, column, c10);
        put_block(base, row + TILE_M / 2u, column + TILE_N / 2u, c11);
    }
}
