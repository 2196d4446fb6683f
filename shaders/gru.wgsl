// The gated recurrent unit over the rows of a sequence. A workgroup owns a sequence: each step, a lane computes every 64th
// unit from the state in workgroup memory. With BEFORE the reset gate acts on the state, else on its product.
//include grid
//include math
struct Params { sequences: u32, rows: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;                    // (rows, 3 HIDDEN): r, z, n
@group(0) @binding(2) var<storage, read> h0: array<f32>;                   // (sequences, HIDDEN)
@group(0) @binding(3) var<storage, read> cu_seqlens: array<u32>;           // (sequences + 1)
@group(0) @binding(4) var<storage, read> u: array<f32>;                    // (3 HIDDEN, HIDDEN); BEFORE: (HIDDEN, 2 HIDDEN)
@group(0) @binding(5) var<storage, read> c: array<f32>;                    // bias (3 HIDDEN); BEFORE: (HIDDEN, HIDDEN)
@group(0) @binding(6) var<storage, read_write> y: array<f32>;              // (rows, HIDDEN)
@group(0) @binding(7) var<storage, read_write> gates: array<f32>;          // (rows, 4 HIDDEN): r, z, n, q or m
@group(0) @binding(8) var<storage, read_write> previous: array<f32>;       // (rows, HIDDEN)

var<workgroup> h: array<f32, HIDDEN>;
var<workgroup> m: array<f32, HIDDEN>;

// What the state gives to column `j` of the gates, and with the reset behind it to the candidate's.
fn of_state(j: u32) -> f32 {
    var sum = 0.0;
    if (BEFORE == 1u) {
        for (var k = 0u; k < HIDDEN; k += 1u) {
            sum += h[k] * u[k * 2u * HIDDEN + j];
        }
        return sum;
    }
    sum = c[j];
    for (var k = 0u; k < HIDDEN; k += 1u) {
        sum += h[k] * u[j * HIDDEN + k];
    }
    return sum;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    // Workgroups behind the last sequence have no rows.
    let inside = flat_group(group) < p.sequences;
    let s = min(flat_group(group), p.sequences - 1u);
    let end = cu_seqlens[s + 1u];
    let first = select(end, cu_seqlens[s], inside);
    for (var j = lane; j < HIDDEN; j += 64u) {
        h[j] = h0[s * HIDDEN + j];
    }
    workgroupBarrier();
    for (var row = first; row < end; row += 1u) {
        for (var j = lane; j < HIDDEN; j += 64u) {
            let r = sigmoid(x[row * 3u * HIDDEN + j] + of_state(j));
            let z = sigmoid(x[row * 3u * HIDDEN + HIDDEN + j] + of_state(HIDDEN + j));
            var saved = r * h[j];
            if (BEFORE == 0u) {
                saved = of_state(2u * HIDDEN + j);
            }
            gates[row * 4u * HIDDEN + j] = r;
            gates[row * 4u * HIDDEN + HIDDEN + j] = z;
            gates[row * 4u * HIDDEN + 3u * HIDDEN + j] = saved;
            previous[row * HIDDEN + j] = h[j];
            m[j] = saved;
        }
        workgroupBarrier();
        for (var j = lane; j < HIDDEN; j += 64u) {
            let at = row * 4u * HIDDEN + j;
            var argument = x[row * 3u * HIDDEN + 2u * HIDDEN + j];
            if (BEFORE == 1u) {
                for (var k = 0u; k < HIDDEN; k += 1u) {
                    argument += m[k] * c[k * HIDDEN + j];
                }
            } else {
                argument += gates[at] * m[j];
            }
            let n = safe_tanh(argument);
            let z = gates[at + HIDDEN];
            gates[at + 2u * HIDDEN] = n;
            h[j] = (1.0 - z) * n + z * h[j];
            y[row * HIDDEN + j] = h[j];
        }
        workgroupBarrier();
    }
    // Inert rows are nobody's: the last workgroup clears them.
    if (inside && s == p.sequences - 1u) {
        for (var i = end * HIDDEN + lane; i < p.rows * HIDDEN; i += 64u) {
            y[i] = 0.0;
            previous[i] = 0.0;
        }
        for (var i = end * 4u * HIDDEN + lane; i < p.rows * 4u * HIDDEN; i += 64u) {
            gates[i] = 0.0;
        }
    }
}
