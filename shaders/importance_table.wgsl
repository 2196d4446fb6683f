// p_n of every noise step, and its running sums. One workgroup; a lane owns neighbouring steps.
//include reduce
struct Params { steps: u32, kept: u32, uniform_share: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> history: array<f32>;        // (steps, kept) in the first words; below 0: none yet
@group(0) @binding(2) var<storage, read_write> table: array<f32>;    // (2, steps): p, sum of p up to n

const REDUCE_LANES = 256u;
var<workgroup> sums: array<f32, REDUCE_LANES>;

fn root(n: u32) -> f32 {
    var squares = 0.0;
    for (var i = n * p.kept; i < (n + 1u) * p.kept; i += 1u) {
        squares += history[i] * history[i];
    }
    return sqrt(squares / f32(p.kept));
}

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
    let share = (p.steps + REDUCE_LANES - 1u) / REDUCE_LANES;
    let first = min(lane * share, p.steps);
    let end = min(first + share, p.steps);
    var own = 0.0;
    var missing = 0.0;
    for (var n = first; n < end; n += 1u) {
        own += root(n);
        for (var i = n * p.kept; i < (n + 1u) * p.kept; i += 1u) {
            missing = max(missing, select(0.0, 1.0, history[i] < 0.0));
        }
    }
    let total = workgroup_sum(lane, own);
    let known = workgroup_max(lane, missing) == 0.0 && total >= 1e-12;
    let even = 1.0 / f32(p.steps);
    var running = 0.0;
    for (var n = first; n < end; n += 1u) {
        let weighed = (1.0 - p.uniform_share) * root(n) / max(total, 1e-12) + p.uniform_share * even;
        let probability = select(even, weighed, known);
        table[n] = probability;
        running += probability;
    }
    sums[lane] = running;
    workgroupBarrier();
    var before = 0.0;
    for (var other = 0u; other < lane; other += 1u) {
        before += sums[other];
    }
    for (var n = first; n < end; n += 1u) {
        before += table[n];
        table[p.steps + n] = before;
    }
}
