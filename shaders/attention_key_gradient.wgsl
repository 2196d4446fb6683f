// dk and dv of attention: dk_j = scale sum_i ds_ij q_i, dv_j = sum_i p_ij keep_ij dy_i, with
// ds_ij = p_ij (keep_ij <dy_i, v_j> - delta_i) and p recomputed from lse. A thread owns one key row of one head: no atomics.
//include grid
//include head
//include philox
struct Params { rows: u32, heads: u32, scale: f32, causal: u32, site: u32, threshold: u32, keep_scale: f32, flags: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> q: array<f32>;              // (rows, heads, HEAD_DIM)
@group(0) @binding(2) var<storage, read> k: array<f32>;              // (rows, heads, HEAD_DIM)
@group(0) @binding(3) var<storage, read> v: array<f32>;              // (rows, heads, HEAD_DIM)
@group(0) @binding(4) var<storage, read> info: array<vec4<u32>>;     // (1 + rows), see attention_rows
@group(0) @binding(5) var<storage, read> stats: array<vec2<f32>>;    // (rows, heads): lse, delta
@group(0) @binding(6) var<storage, read> dy: array<f32>;             // (rows, heads, HEAD_DIM)
@group(0) @binding(7) var<storage, read_write> dk: array<f32>;       // (rows, heads, HEAD_DIM)
@group(0) @binding(8) var<storage, read_write> dv: array<f32>;       // (rows, heads, HEAD_DIM)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let stripes = (p.rows + 63u) / 64u;
    let head = flat_group(group) / stripes;
    let row = (flat_group(group) % stripes) * 64u + lane;
    if (row < p.rows && head < p.heads) {
        let base = (row * p.heads + head) * HEAD_DIM;
        var key: array<vec4<f32>, QUADS>;
        var value: array<vec4<f32>, QUADS>;
        var key_sum: array<vec4<f32>, QUADS>;
        var value_sum: array<vec4<f32>, QUADS>;
        for (var d = 0u; d < QUADS; d += 1u) {
            let at = words_at(base, d);
            key[d] = select(vec4<f32>(0.0), p.scale * vec4<f32>(k[at.x], k[at.y], k[at.z], k[at.w]), inside(d));
            value[d] = select(vec4<f32>(0.0), vec4<f32>(v[at.x], v[at.y], v[at.z], v[at.w]), inside(d));
            key_sum[d] = vec4<f32>(0.0);
            value_sum[d] = vec4<f32>(0.0);
        }
        let own = info[1u + row];
        let feature = (head << 20u) | (own.w >> 2u);
        // Queries before the row see it only when nothing is causal, or when they see everything.
        let first = select(own.x, max(own.x, min(own.y, row)), p.causal == 1u && p.flags == 0u);
        for (var i = first; i < own.y; i += 1u) {
            let other = info[1u + i];
            let sees_all = (other.w & 2u) != 0u;
            if (sees_all || ((own.w & 1u) != 0u && (p.causal == 0u || row <= i))) {
                let query_base = (i * p.heads + head) * HEAD_DIM;
                let stat = stats[i * p.heads + head];
                var score = 0.0;
                var dp = 0.0;
                for (var d = 0u; d < QUADS; d += 1u) {
                    let at = words_at(query_base, d);
                    score += dot(key[d], vec4<f32>(q[at.x], q[at.y], q[at.z], q[at.w]));
                    dp += dot(value[d], vec4<f32>(dy[at.x], dy[at.y], dy[at.z], dy[at.w]));
                }
                let probability = exp(min(score - stat.x, 0.5));
                var keep = 1.0;
                if (DROPOUT == 1u) {
                    let word = rng_word(info[0], p.site, other.z, other.w >> 2u, feature);
                    keep = select(0.0, p.keep_scale, word >= p.threshold);
                }
                let weight = probability * keep;
                let ds = p.scale * probability * (keep * dp - stat.y);
                for (var d = 0u; d < QUADS; d += 1u) {
                    let at = words_at(query_base, d);
                    key_sum[d] += ds * vec4<f32>(q[at.x], q[at.y], q[at.z], q[at.w]);
                    value_sum[d] += weight * vec4<f32>(dy[at.x], dy[at.y], dy[at.z], dy[at.w]);
                }
            }
        }
        for (var d = 0u; d < HEAD_DIM; d += 1u) {
            dk[base + d] = key_sum[d / 4u][d % 4u];
            dv[base + d] = value_sum[d / 4u][d % 4u];
        }
    }
}
