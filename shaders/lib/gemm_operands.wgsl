// Blocks of 4x4 words of the operands, and the arithmetic on them. The including shader has `p`, `a`, `b` and `put`; both
// operands are arrays of vec4, which serve single words as well. VEC4_A and VEC4_B say that a row's length is a multiple
// of 4. Indices must lie inside the matrix: callers clamp them once, outside the loop over k.

fn a_words(i: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(a[i.x / 4u][i.x % 4u], a[i.y / 4u][i.y % 4u], a[i.z / 4u][i.z % 4u], a[i.w / 4u][i.w % 4u]);
}

fn b_words(i: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(b[i.x / 4u][i.x % 4u], b[i.y / 4u][i.y % 4u], b[i.z / 4u][i.z % 4u], b[i.w / 4u][i.w % 4u]);
}

// A at four rows and the inner indices `l`: for each inner index a vector along the rows.
fn a_block(base: u32, rows: vec4<u32>, l: vec4<u32>) -> mat4x4<f32> {
    if (TRANS_A == 1u) {
        let first = base + l * p.m;
        if (VEC4_A == 1u) {
            let i = (first + rows.x) / 4u;
            return mat4x4<f32>(a[i.x], a[i.y], a[i.z], a[i.w]);
        }
        return mat4x4<f32>(
            a_words(first.x + rows), a_words(first.y + rows), a_words(first.z + rows), a_words(first.w + rows));
    }
    let first = base + rows * p.k;
    if (VEC4_A == 1u) {
        let i = (first + l.x) / 4u;
        return transpose(mat4x4<f32>(a[i.x], a[i.y], a[i.z], a[i.w]));
    }
    return transpose(mat4x4<f32>(a_words(first.x + l), a_words(first.y + l), a_words(first.z + l), a_words(first.w + l)));
}

// B at the inner indices `l` and four columns: for each inner index a vector along the columns.
fn b_block(base: u32, l: vec4<u32>, columns: vec4<u32>) -> mat4x4<f32> {
    if (TRANS_B == 0u) {
        let first = base + l * p.n;
        if (VEC4_B == 1u) {
            let i = (first + columns.x) / 4u;
            return mat4x4<f32>(b[i.x], b[i.y], b[i.z], b[i.w]);
        }
        return mat4x4<f32>(
            b_words(first.x + columns), b_words(first.y + columns), b_words(first.z + columns), b_words(first.w + columns));
    }
    let first = base + columns * p.k;
    if (VEC4_B == 1u) {
        let i = (first + l.x) / 4u;
        return transpose(mat4x4<f32>(b[i.x], b[i.y], b[i.z], b[i.w]));
    }
    return transpose(mat4x4<f32>(b_words(first.x + l), b_words(first.y + l), b_words(first.z + l), b_words(first.w + l)));
}

// A block with zeros where `l` is behind the end of the slice.
fn until(k_end: u32, l: vec4<u32>, block: mat4x4<f32>) -> mat4x4<f32> {
    let zero = vec4<f32>(0.0);
    return mat4x4<f32>(
        select(zero, block[0], l.x < k_end), select(zero, block[1], l.y < k_end),
        select(zero, block[2], l.z < k_end), select(zero, block[3], l.w < k_end));
}

// Four of a row or column from `first` on; what lies behind the last one repeats it.
fn clamped(first: u32, count: u32) -> vec4<u32> {
    return min(vec4<u32>(first) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(count - 1u));
}

// c + u v^T for one inner index.
fn outer(c: mat4x4<f32>, u: vec4<f32>, v: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(
        fma(vec4<f32>(u.x), v, c[0]), fma(vec4<f32>(u.y), v, c[1]),
        fma(vec4<f32>(u.z), v, c[2]), fma(vec4<f32>(u.w), v, c[3]));
}

// A row of `product`: four steps of the chain.
fn chain(c: vec4<f32>, u: vec4<f32>, v: mat4x4<f32>) -> vec4<f32> {
    return fma(vec4<f32>(u.w), v[3], fma(vec4<f32>(u.z), v[2], fma(vec4<f32>(u.y), v[1], fma(vec4<f32>(u.x), v[0], c))));
}

// c + sum over four inner indices of u v^T; each row's four steps stand together, which is 5 % faster than index by index.
fn product(c: mat4x4<f32>, u: mat4x4<f32>, v: mat4x4<f32>) -> mat4x4<f32> {
    let rows = transpose(u);
    return mat4x4<f32>(chain(c[0], rows[0], v), chain(c[1], rows[1], v), chain(c[2], rows[2], v), chain(c[3], rows[3], v));
}

// Stores a block; the including shader's `put` stores four neighbours of a row.
fn put_block(base: u32, row: u32, column: u32, c: mat4x4<f32>) {
    put(base, row, column, c[0]);
    put(base, row + 1u, column, c[1]);
    put(base, row + 2u, column, c[2]);
    put(base, row + 3u, column, c[3]);
}
