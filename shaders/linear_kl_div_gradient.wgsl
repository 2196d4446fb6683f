// Adds a teacher's share to a chunk of ds: dloss scale (p_student - p_teacher); items behind the catalogue get 0. One
// element per thread.
//include grid
struct Params { rows: u32, len: u32, first: u32, items: u32, scale: f32, teacher: u32, sides: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> student: array<f32>;     // (rows, len): logits
@group(0) @binding(2) var<storage, read> teacher: array<f32>;     // (rows, len): logits
@group(0) @binding(3) var<storage, read> lse: array<f32>;         // (rows, sides): student, teachers
@group(0) @binding(4) var<storage, read> dloss: array<f32>;       // (rows): of this teacher
@group(0) @binding(5) var<storage, read_write> ds: array<f32>;    // (rows, len)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    if (i < p.rows * p.len) {
        let row = i / p.len;
        let of_student = exp(min(student[i] * p.scale - lse[p.sides * row], 1.0));
        let of_teacher = exp(min(teacher[i] * p.scale - lse[p.sides * row + 1u + p.teacher], 1.0));
        let share = select(dloss[row] * p.scale * (of_student - of_teacher), 0.0, p.first + i % p.len >= p.items);
        ds[i] = select(ds[i] + share, share, p.teacher == 0u);
    }
}
