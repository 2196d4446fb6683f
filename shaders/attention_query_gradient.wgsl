// dq of attention: dq_i = scale sum_j ds_ij k_j with ds_ij = p_ij (keep_ij <dy_i, v_j> - delta_i), p recomputed from lse.
// A thread owns one query row of one head.
//include grid
//include head
//include philox
struct Params { rows: u32, heads: u32, scale: f32, causal: u32, site: u32, threshold: u32, keep_scale: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> q: array<f32>;              // (rows, heads, HEAD_DIM)
@group(0) @binding(2) var<storage, read> k: array<f32>;              // (rows, heads, HEAD_DIM)
@group(0) @binding(3) var<storage, read> v: array<f32>;              // (rows, heads, HEAD_DIM)
@group(0) @binding(4) var<storage, read> info: array<vec4<u32>>;     // (1 + rows), see attention_rows
@group(0) @binding(5) var<storage, read> stats: array<vec2<f32>>;    // (rows, heads): lse, delta
@group(0) @binding(6) var<storage, read> dy: array<f32>;             // (rows, heads, HEAD_DIM)
@group(0) @binding(7) var<storage, read_write> dq: array<f32>;       // (rows, heads, HEAD_DIM)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let stripes = (p.rows + 63u) / 64u;
    let head = flat_group(group) / stripes;
    let row = (flat_group(group) % stripes) * 64u + lane;
    if (row < p.rows && head < p.heads) {
        let base = (row * p.heads + head) * HEAD_DIM;
        var query: array<vec4<f32>, QUADS>;
        var cotangent: array<vec4<f32>, QUADS>;
        var sum: array<vec4<f32>, QUADS>;
        for (var d = 0u; d < QUADS; d += 1u) {
            let at = words_at(base, d);
            query[d] = select(vec4<f32>(0.0), p.scale * vec4<f32>(q[at.x], q[at.y], q[at.z], q[at.w]), inside(d));
            cotangent[d] = select(vec4<f32>(0.0), vec4<f32>(dy[at.x], dy[at.y], dy[at.z], dy[at.w]), inside(d));
            sum[d] = vec4<f32>(0.0);
        }
        let own = info[1u + row];
        let stat = stats[row * p.heads + head];
        let sees_all = (own.w & 2u) != 0u;
        let end = select(own.y, min(own.y, row + 1u), p.causal == 1u && !sees_all);
        for (var j = own.x; j < end; j += 1u) {
            let key_word = info[1u + j].w;
            if (sees_all || (key_word & 1u) != 0u) {
                let key_base = (j * p.heads + head) * HEAD_DIM;
                var score = 0.0;
                var dp = 0.0;
                for (var d = 0u; d < QUADS; d += 1u) {
                    let at = words_at(key_base, d);
                    score += dot(query[d], vec4<f32>(k[at.x], k[at.y], k[at.z], k[at.w]));
                    dp += dot(cotangent[d], vec4<f32>(v[at.x], v[at.y], v[at.z], v[at.w]));
                }
                if (DROPOUT == 1u) {
                    let word = rng_word(info[0], p.site, own.z, own.w >> 2u, (head << 20u) | (key_word >> 2u));
                    dp = select(0.0, dp * p.keep_scale, word >= p.threshold);
                }
                let ds = p.scale * exp(min(score - stat.x, 0.5)) * (dp - stat.y);
                for (var d = 0u; d < QUADS; d += 1u) {
                    let at = words_at(key_base, d);
                    sum[d] += ds * vec4<f32>(k[at.x], k[at.y], k[at.z], k[at.w]);
                }
            }
        }
        for (var d = 0u; d < HEAD_DIM; d += 1u) {
            dq[base + d] = sum[d / 4u][d % 4u];
        }
    }
}
