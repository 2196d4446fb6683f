// y = softmax(scale q k^T) v per sequence, by online softmax. A thread owns one query row of one head; neighbouring
// threads own neighbouring rows, so that they read the same key at the same time.
//include grid
//include head
//include philox
struct Params { rows: u32, heads: u32, scale: f32, causal: u32, site: u32, threshold: u32, keep_scale: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> q: array<f32>;              // (rows, heads, HEAD_DIM)
@group(0) @binding(2) var<storage, read> k: array<f32>;              // (rows, heads, HEAD_DIM)
@group(0) @binding(3) var<storage, read> v: array<f32>;              // (rows, heads, HEAD_DIM)
@group(0) @binding(4) var<storage, read> info: array<vec4<u32>>;     // (1 + rows), see attention_rows
@group(0) @binding(5) var<storage, read_write> y: array<f32>;        // (rows, heads, HEAD_DIM)
@group(0) @binding(6) var<storage, read_write> lse: array<f32>;      // (rows, heads)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let stripes = (p.rows + 63u) / 64u;
    let head = flat_group(group) / stripes;
    let row = (flat_group(group) % stripes) * 64u + lane;
    if (row < p.rows && head < p.heads) {
        let base = (row * p.heads + head) * HEAD_DIM;
        var query: array<vec4<f32>, QUADS>;
        var mix: array<vec4<f32>, QUADS>;
        for (var d = 0u; d < QUADS; d += 1u) {
            let at = words_at(base, d);
            query[d] = select(vec4<f32>(0.0), p.scale * vec4<f32>(q[at.x], q[at.y], q[at.z], q[at.w]), inside(d));
            mix[d] = vec4<f32>(0.0);
        }
        let own = info[1u + row];
        let sees_all = (own.w & 2u) != 0u;
        let end = select(own.y, min(own.y, row + 1u), p.causal == 1u && !sees_all);
        var peak = -1e30;
        var total = 0.0;
        var words: vec4<u32>;
        var block = 0xffffffffu;
        for (var j = own.x; j < end; j += 1u) {
            let key_word = info[1u + j].w;
            if (sees_all || (key_word & 1u) != 0u) {
                let key_base = (j * p.heads + head) * HEAD_DIM;
                var score = 0.0;
                for (var d = 0u; d < QUADS; d += 1u) {
                    let at = words_at(key_base, d);
                    score += dot(query[d], vec4<f32>(k[at.x], k[at.y], k[at.z], k[at.w]));
                }
                let new_peak = max(peak, score);
                let shrink = exp(peak - new_peak);
                var weight = exp(score - new_peak);
                peak = new_peak;
                total = total * shrink + weight;
                if (DROPOUT == 1u) {
                    // Four neighbouring positions share one block of random words.
                    let feature = (head << 20u) | (key_word >> 2u);
                    if (feature >> 2u != block) {
                        block = feature >> 2u;
                        words = rng_block(info[0], p.site, own.z, own.w >> 2u, block);
                    }
                    weight = select(0.0, weight * p.keep_scale, rng_lane(words, feature & 3u) >= p.threshold);
                }
                for (var d = 0u; d < QUADS; d += 1u) {
                    let at = words_at(key_base, d);
                    mix[d] = mix[d] * shrink + weight * vec4<f32>(v[at.x], v[at.y], v[at.z], v[at.w]);
                }
            }
        }
        let seen = total > 0.0;
        let inverse = select(0.0, 1.0 / total, seen);
        for (var d = 0u; d < HEAD_DIM; d += 1u) {
            y[base + d] = mix[d / 4u][d % 4u] * inverse;
        }
        lse[row * p.heads + head] = select(-1e30, peak + log(total), seen);
    }
}
