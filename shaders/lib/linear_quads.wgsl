// Where a linear layer of a width that is a multiple of 4 saves its pre-activation. `linear_words` takes any width.
@group(0) @binding(5) var<storage, read_write> pre: array<vec4<f32>>;    // (m, n)

fn put_pre(i: u32, column: u32, value: vec4<f32>) {
    pre[i / 4u] = value;
}
