// y_i = sum_j keep_ij softmax_j(scale <q_i, k_j>) v_j over the keys of a query. A workgroup owns a query and head: a lane per
// key for the scores, then a lane per column (two of wide heads) for the sum, rescaled where the maximum grows.
//include grid
//include philox
//include cross_attention
//include reduce
@group(0) @binding(5) var<storage, read_write> y: array<f32>;      // (queries, heads, width)
@group(0) @binding(6) var<storage, read_write> lse: array<f32>;    // (queries, heads)

const REDUCE_LANES = 64u;
const HIDDEN = -1e30;
var<workgroup> weight: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = min(flat_group(group), p.queries * p.heads - 1u);
    let query = i / p.heads;
    let head = i % p.heads;
    let place = places[1u + query];
    let count = key_count(place);
    var peak = HIDDEN;
    var sum = 0.0;
    var mixed = vec2<f32>(0.0);
    for (var first = 0u; first < count; first += 64u) {
        let at = first + lane;
        let seen = at < count;
        var own = HIDDEN;
        if (seen) {
            own = score(query, key_row(query, place, at), head);
        }
        let higher = max(peak, workgroup_max(lane, own));
        let e = select(0.0, exp(own - higher), seen);
        let shrink = exp(peak - higher);
        sum = sum * shrink + workgroup_sum(lane, e);
        peak = higher;
        weight[lane] = e * keep_factor(place, head, at);
        workgroupBarrier();
        mixed *= shrink;
        for (var t = 0u; t < min(64u, count - first); t += 1u) {
            let base = (key_row(query, place, first + t) * p.heads + head) * p.width;
            mixed += weight[t] * vec2<f32>(v[base + min(lane, p.width - 1u)], v[base + min(lane + 64u, p.width - 1u)]);
        }
        workgroupBarrier();
    }
    let norm = select(0.0, 1.0 / sum, sum > 0.0);
    if (lane < p.width) {
        y[i * p.width + lane] = mixed.x * norm;
    }
    if (lane + 64u < p.width) {
        y[i * p.width + lane + 64u] = mixed.y * norm;
    }
    if (lane == 0u) {
        lse[i] = select(HIDDEN, peak + log(sum), sum > 0.0);
    }
}
