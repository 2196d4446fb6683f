// c = (max e - e + least) / (max e + least) of squared errors, by one workgroup.
//include reduce
struct Params { len: u32, least: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> value: array<f32>;        // (len)
@group(0) @binding(2) var<storage, read> goal: array<f32>;         // (len)
@group(0) @binding(3) var<storage, read_write> c: array<f32>;      // (len)

const REDUCE_LANES = 256u;

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
    var own = 0.0;
    for (var i = lane; i < p.len; i += 256u) {
        let d = value[i] - goal[i];
        own = max(own, d * d);
    }
    let most = workgroup_max(lane, own);
    for (var i = lane; i < p.len; i += 256u) {
        let d = value[i] - goal[i];
        c[i] = (most - d * d + p.least) / (most + p.least);
    }
}
