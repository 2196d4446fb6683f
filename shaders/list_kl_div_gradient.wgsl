// ds = dloss scale (p_student - p_teacher); a thread owns a row.
//include grid
struct Params { rows: u32, width: u32, teacher_scale: f32, student_scale: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> teacher: array<f32>;           // (rows, width)
@group(0) @binding(2) var<storage, read> student: array<f32>;           // (rows, width)
@group(0) @binding(3) var<storage, read> dloss: array<f32>;             // (rows)
@group(0) @binding(4) var<storage, read_write> dstudent: array<f32>;    // (rows, width)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = flat_group(group) * 64u + lane;
    if (row < p.rows) {
        let base = row * p.width;
        let scale = vec2<f32>(p.teacher_scale, p.student_scale);
        var largest = vec2<f32>(-1e30);
        for (var i = base; i < base + p.width; i += 1u) {
            largest = max(largest, vec2<f32>(teacher[i], student[i]) * scale);
        }
        var sums = vec2<f32>(0.0);
        for (var i = base; i < base + p.width; i += 1u) {
            sums += exp(vec2<f32>(teacher[i], student[i]) * scale - largest);
        }
        for (var i = base; i < base + p.width; i += 1u) {
            let probability = exp(vec2<f32>(teacher[i], student[i]) * scale - largest) / sums;
            dstudent[i] = dloss[row] * p.student_scale * (probability.y - probability.x);
        }
    }
}
