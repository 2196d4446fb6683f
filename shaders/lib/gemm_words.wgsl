// Results of a product of any width; a quad may reach behind the last column.
@group(0) @binding(4) var<storage, read_write> y: array<f32>;    // (slices, batch, m, n)

fn y_quad(i: u32, column: u32) -> vec4<f32> {
    let last = i + p.n - 1u - column;
    return vec4<f32>(y[i], y[min(i + 1u, last)], y[min(i + 2u, last)], y[min(i + 3u, last)]);
}

fn put_y(i: u32, column: u32, value: vec4<f32>) {
    y[i] = value.x;
    if (column + 1u < p.n) {
        y[i + 1u] = value.y;
    }
    if (column + 2u < p.n) {
        y[i + 2u] = value.z;
    }
    if (column + 3u < p.n) {
        y[i + 3u] = value.w;
    }
}
