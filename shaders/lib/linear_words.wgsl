// Where a linear layer of any width saves its pre-activation; a quad may reach behind the last column.
@group(0) @binding(5) var<storage, read_write> pre: array<f32>;    // (m, n)

fn put_pre(i: u32, column: u32, value: vec4<f32>) {
    pre[i] = value.x;
    if (column + 1u < p.n) {
        pre[i + 1u] = value.y;
    }
    if (column + 2u < p.n) {
        pre[i + 2u] = value.z;
    }
    if (column + 3u < p.n) {
        pre[i + 3u] = value.w;
    }
}
