// What the attention gradient knows of a row and head: the saved lse, and delta = <dy, y>.
//include grid
struct Params { len: u32, head_dim: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> y: array<f32>;                    // (rows, heads, head_dim)
@group(0) @binding(2) var<storage, read> dy: array<f32>;                   // (rows, heads, head_dim)
@group(0) @binding(3) var<storage, read> lse: array<f32>;                  // (rows, heads)
@group(0) @binding(4) var<storage, read_write> stats: array<vec2<f32>>;    // (rows, heads) = (len)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    if (i < p.len) {
        var delta = 0.0;
        for (var d = i * p.head_dim; d < (i + 1u) * p.head_dim; d += 1u) {
            delta += y[d] * dy[d];
        }
        stats[i] = vec2<f32>(lse[i], delta);
    }
}
