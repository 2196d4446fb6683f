// y = a y + b, again and again, in registers: eight independent vec4 chains per thread.
//include grid
struct Params { len: u32, turns: u32, a: f32, b: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;    // (len), holds x on entry

fn load(first: u32) -> vec4<f32> {
    let at = min(vec4<u32>(first) + vec4<u32>(0u, 64u, 128u, 192u), vec4<u32>(p.len - 1u));
    return vec4<f32>(y[at.x], y[at.y], y[at.z], y[at.w]);
}

fn store(first: u32, value: vec4<f32>) {
    if (first < p.len) { y[first] = value.x; }
    if (first + 64u < p.len) { y[first + 64u] = value.y; }
    if (first + 128u < p.len) { y[first + 128u] = value.z; }
    if (first + 192u < p.len) { y[first + 192u] = value.w; }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let first = flat_group(group) * 2048u + lane;
    let a = vec4<f32>(p.a);
    let b = vec4<f32>(p.b);
    var x0 = load(first);         var x1 = load(first + 256u);
    var x2 = load(first + 512u);  var x3 = load(first + 768u);
    var x4 = load(first + 1024u); var x5 = load(first + 1280u);
    var x6 = load(first + 1536u); var x7 = load(first + 1792u);
    for (var i = 0u; i < p.turns; i += 1u) {
        x0 = fma(a, x0, b); x1 = fma(a, x1, b); x2 = fma(a, x2, b); x3 = fma(a, x3, b);
        x4 = fma(a, x4, b); x5 = fma(a, x5, b); x6 = fma(a, x6, b); x7 = fma(a, x7, b);
        x0 = fma(a, x0, b); x1 = fma(a, x1, b); x2 = fma(a, x2, b); x3 = fma(a, x3, b);
        x4 = fma(a, x4, b); x5 = fma(a, x5, b); x6 = fma(a, x6, b); x7 = fma(a, x7, b);
        x0 = fma(a, x0, b); x1 = fma(a, x1, b); x2 = fma(a, x2, b); x3 = fma(a, x3, b);
        x4 = fma(a, x4, b); x5 = fma(a, x5, b); x6 = fma(a, x6, b); x7 = fma(a, x7, b);
        x0 = fma(a, x0, b); x1 = fma(a, x1, b); x2 = fma(a, x2, b); x3 = fma(a, x3, b);
        x4 = fma(a, x4, b); x5 = fma(a, x5, b); x6 = fma(a, x6, b); x7 = fma(a, x7, b);
    }
    store(first, x0);         store(first + 256u, x1);
    store(first + 512u, x2);  store(first + 768u, x3);
    store(first + 1024u, x4); store(first + 1280u, x5);
    store(first + 1536u, x6); store(first + 1792u, x7);
}
