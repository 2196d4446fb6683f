// dq of cross attention: dq_i = scale sum_j ds_ij k_j with ds_ij = p_ij (keep_ij <dy_i, v_j> - delta_i), p recomputed from lse.
// A workgroup owns a query and head: a lane per key for ds, then a lane per column for the sum.
//include grid
//include philox
//include cross_attention
@group(0) @binding(5) var<storage, read> stats: array<vec2<f32>>;      // (queries, heads): lse, delta
@group(0) @binding(6) var<storage, read> dy: array<f32>;               // (queries, heads, width)
@group(0) @binding(7) var<storage, read_write> dq: array<f32>;         // (queries, heads, width)

var<workgroup> ds: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = min(flat_group(group), p.queries * p.heads - 1u);
    let query = i / p.heads;
    let head = i % p.heads;
    let place = places[1u + query];
    let count = key_count(place);
    var sum = vec2<f32>(0.0);
    for (var first = 0u; first < count; first += 64u) {
        let at = first + lane;
        var own = 0.0;
        if (at < count) {
            let row = key_row(query, place, at);
            let base = (row * p.heads + head) * p.width;
            var dp = 0.0;
            for (var d = 0u; d < p.width; d += 1u) {
                dp += dy[i * p.width + d] * v[base + d];
            }
            let probability = exp(min(score(query, row, head) - stats[i].x, 0.5));
            own = p.scale * probability * (keep_factor(place, head, at) * dp - stats[i].y);
        }
        ds[lane] = own;
        workgroupBarrier();
        for (var t = 0u; t < min(64u, count - first); t += 1u) {
            let base = (key_row(query, place, first + t) * p.heads + head) * p.width;
            sum += ds[t] * vec2<f32>(k[base + min(lane, p.width - 1u)], k[base + min(lane + 64u, p.width - 1u)]);
        }
        workgroupBarrier();
    }
    if (lane < p.width) {
        dq[i * p.width + lane] = sum.x;
    }
    if (lane + 64u < p.width) {
        dq[i * p.width + lane + 64u] = sum.y;
    }
}
