// p_bv = 1/S sum_s exp(z_bsv - max_bs) / sum_bs for a chunk of items, one element per thread.
//include grid
struct Params { batch: u32, samples: u32, len: u32, first: u32, items: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> z: array<f32>;             // (batch, samples, len)
@group(0) @binding(2) var<storage, read> stats: array<f32>;         // (batch, samples, 2): maximum, sum
@group(0) @binding(3) var<storage, read_write> mean: array<f32>;    // (batch, items)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    if (i < p.batch * p.len) {
        let b = i / p.len;
        let v = i % p.len;
        var sum = 0.0;
        for (var s = b * p.samples; s < (b + 1u) * p.samples; s += 1u) {
            sum += exp(z[s * p.len + v] - stats[2u * s]) / stats[2u * s + 1u];
        }
        mean[b * p.items + p.first + v] = sum / f32(p.samples);
    }
}
