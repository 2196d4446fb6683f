// loss = softplus(z) - t z, one element per thread; t z is taken off before the small part is added.
//include grid
//include math
struct Params { len: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;          // (len)
@group(0) @binding(2) var<storage, read> labels: array<f32>;          // (len)
@group(0) @binding(3) var<storage, read_write> loss: array<f32>;      // (len)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    if (i < p.len) {
        let z = logits[i];
        let t = labels[i];
        loss[i] = select(-t * z, z * (1.0 - t), z >= 0.0) + softplus(-abs(z));
    }
}
