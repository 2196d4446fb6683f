// Results of a product whose width is a multiple of 4, four columns at a time. `gemm_words` takes any width.
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;    // (slices, batch, m, n)

fn y_quad(i: u32, column: u32) -> vec4<f32> {
    return y[i / 4u];
}

fn put_y(i: u32, column: u32, value: vec4<f32>) {
    y[i / 4u] = value;
}
