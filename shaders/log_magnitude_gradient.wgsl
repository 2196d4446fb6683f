// dx = dy / x where |x| is above the floor, 0 elsewhere; one element per thread.
//include grid
struct Params { len: u32, least: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;           // (len)
@group(0) @binding(2) var<storage, read> dy: array<f32>;          // (len)
@group(0) @binding(3) var<storage, read_write> dx: array<f32>;    // (len)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    if (i < p.len) {
        var slope = 0.0;
        if (abs(x[i]) > p.least) {
            slope = dy[i] / x[i];
        }
        dx[i] = slope;
    }
}
