enable f16;
enable wgpu_cooperative_matrix;
// The product on matrix units: a workgroup is one subgroup of SUBGROUP threads and owns a tile of 64x32, eight matrices of
// 16x16. Words of A and B are rounded to f16, products are summed in f32. Slices of 16 along K are staged in workgroup
// memory, one inner index after the other; finished matrices go through workgroup memory to `put`.
alias Left = coop_mat16x16<f16, A>;
alias Right = coop_mat16x16<f16, B>;
alias Sums = coop_mat16x16<f32, C>;

var<workgroup> a_tile: array<f16, 1024>;    // (16 along k, 64 rows)
var<workgroup> b_tile: array<f16, 512>;     // (16 along k, 32 columns)
var<workgroup> c_tile: array<f32, 256>;     // (16, 16)

fn stage_a(at: u32, quad: vec4<f32>) {
    let rounded = vec4<f16>(quad);
    a_tile[at] = rounded.x;
    a_tile[at + 1u] = rounded.y;
    a_tile[at + 2u] = rounded.z;
    a_tile[at + 3u] = rounded.w;
}

fn stage_b(at: u32, quad: vec4<f32>) {
    let rounded = vec4<f16>(quad);
    b_tile[at] = rounded.x;
    b_tile[at + 1u] = rounded.y;
    b_tile[at + 2u] = rounded.z;
    b_tile[at + 3u] = rounded.w;
}

// Stores the matrix in `c_tile`.
fn put_matrix(base: u32, row: u32, column: u32, lane: u32) {
    for (var quad = lane; quad < 64u; quad += SUBGROUP) {
        let at = 4u * quad;
        let words = vec4<f32>(c_tile[at], c_tile[at + 1u], c_tile[at + 2u], c_tile[at + 3u]);
        put(base, row + quad / 4u, column + 4u * (quad % 4u), words);
    }
}

@compute @workgroup_size(SUBGROUP)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let tiles_n = (p.n + 31u) / 32u;
    let tiles = tiles_n * ((p.m + 63u) / 64u);
    let index = flat_group(group);
    let inside = index / tiles < p.slabs;
    let slab = select(0u, index / tiles, inside);    // slice * batch + z
    let z = slab % p.batch;
    let k_first = (slab / p.batch) * p.k_slice;
    let k_end = min(p.k, k_first + p.k_slice);
    let row0 = ((index % tiles) / tiles_n) * 64u;
    let column0 = ((index % tiles) % tiles_n) * 32u;
    let a_base = z * p.m * p.k;
    let b_base = z * p.k * p.n;
    let four = vec4<u32>(0u, 1u, 2u, 3u);
    let last = vec4<u32>(p.k - 1u);

    var c00: Sums; var c01: Sums; var c10: Sums; var c11: Sums;
    var c20: Sums; var c21: Sums; var c30: Sums; var c31: Sums;
    for (var first = k_first; first < k_first + p.k_slice; first += 16u) {
        // Blocks of 4x4; neighbours read neighbouring words.
        for (var block = lane; block < 64u; block += SUBGROUP) {
            let at = 4u * select(block % 4u, block / 16u, TRANS_A == 1u);
            let quad = 4u * select(block / 4u, block % 16u, TRANS_A == 1u);
            let l = vec4<u32>(first + at) + four;
            let words = until(k_end, l, a_block(a_base, clamped(row0 + quad, p.m), min(l, last)));
            stage_a(at * 64u + quad, words[0]);
            stage_a((at + 1u) * 64u + quad, words[1]);
            stage_a((at + 2u) * 64u + quad, words[2]);
            stage_a((at + 3u) * 64u + quad, words[3]);
        }
        for (var block = lane; block < 32u; block += SUBGROUP) {
            let at = 4u * select(block / 8u, block % 4u, TRANS_B == 1u);
            let quad = 4u * select(block % 8u, block / 4u, TRANS_B == 1u);
            let l = vec4<u32>(first + at) + four;
            let words = until(k_end, l, b_block(b_base, min(l, last), clamped(column0 + quad, p.n)));
            stage_b(at * 32u + quad, words[0]);
            stage_b((at + 1u) * 32u + quad, words[1]);
            stage_b((at + 2u) * 32u + quad, words[2]);
            stage_b((at + 3u) * 32u + quad, words[3]);
        }
        workgroupBarrier();
        // A lies column after column, B row after row.
        let b0 = coopLoadT<Right>(&b_tile[0], 32u);
        let b1 = coopLoadT<Right>(&b_tile[16], 32u);
        let a0 = coopLoad<Left>(&a_tile[0], 64u);
        c00 = coopMultiplyAdd(a0, b0, c00);
        c01 = coopMultiplyAdd(a0, b1, c01);
        let a1 = coopLoad<Left>(&a_tile[16], 64u);
        c10 = coopMultiplyAdd(a1, b0, c10);
        c11 = coopMultiplyAdd(a1, b1, c11);
        let a2 = coopLoad<Left>(&a_tile[32], 64u);
        c20 = coopMultiplyAdd(a2, b0, c20);
        c21 = coopMultiplyAdd(a2, b1, c21);
        let a3 = coopLoad<Left>(&a_tile[48], 64u);
        c30 = coopMultiplyAdd(a3, b0, c30);
        c31 = coopMultiplyAdd(a3, b1, c31);
        workgroupBarrier();
    }

    let base = slab * p.m * p.n;
    let row = select(p.m, row0, inside);
    coopStoreT(c00, &c_tile[0], 16u);
    workgroupBarrier();
    put_matrix(base, row + 0u, column0 + 0u, lane);
    workgroupBarrier();
    coopStoreT(c01, &c_tile[0], 16u);
    workgroupBarrier();
    put_matrix(base, row + 0u, column0 + 16u, lane);
    workgroupBarrier();
    coopStoreT(c10, &c_tile[0], 16u);
    workgroupBarrier();
    put_matrix(base, row + 16u, column0 + 0u, lane);
    workgroupBarrier();
    coopStoreT(c11, &c_tile[0], 16u);
    workgroupBarrier();
    put_matrix(base, row + 16u, column0 + 16u, lane);
    workgroupBarrier();
    coopStoreT(c20, &c_tile[0], 16u);
    workgroupBarrier();
    put_matrix(base, row + 32u, column0 + 0u, lane);
    workgroupBarrier();
    coopStoreT(c21, &c_tile[0], 16u);
    workgroupBarrier();
    put_matrix(base, row + 32u, column0 + 16u, lane);
    workgroupBarrier();
    coopStoreT(c30, &c_tile[0], 16u);
    workgroupBarrier();
    put_matrix(base, row + 48u, column0 + 0u, lane);
    workgroupBarrier();
    coopStoreT(c31, &c_tile[0], 16u);
    workgroupBarrier();
    put_matrix(base, row + 48u, column0 + 16u, lane);
    workgroupBarrier();
}
