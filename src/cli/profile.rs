//! `gpurec run --profile`: where the time of a training step goes.

use super::console::table;
use crate::train::OpTime;

/// Training steps that are looked at.
pub const STEPS: usize = 20;

/// A table of the ops, the costliest first.
pub fn render(device: &str, mut times: Vec<OpTime>) -> String {
    times.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    let total: f64 = times.iter().map(|time| time.seconds).sum();
    let per_step = |x: f64| x / STEPS as f64;
    let row = |time: &OpTime| {
        [
            time.op.to_string(),
            format!("{:.1}", per_step(time.calls as f64)),
            format!("{:.3}", per_step(1e3 * time.seconds)),
            format!("{:.1} %", 100.0 * time.seconds / total),
            format!("{:.1}", 1e-9 * time.flops as f64 / time.seconds),
            format!("{:.2}", 1e-9 * time.bytes as f64 / time.seconds),
        ]
    };
    let header = ["op", "calls a step", "ms a step", "share", "GFLOP/s", "GB/s"];
    format!(
        "{device}: {:.2} ms a step in ops, the mean of {STEPS} training steps\n{}",
        per_step(1e3 * total),
        table(&header, times.iter().map(row), 1),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_costliest_op_comes_first_and_shares_add_up() {
        let time = |op, seconds| OpTime { op, calls: STEPS, seconds, flops: 1_000_000_000, bytes: 0 };
        let text = render("cpu", vec![time("adam", 0.1 * STEPS as f64), time("matmul", 0.3 * STEPS as f64)]);
        let (matmul, adam) = (text.find("matmul").unwrap(), text.find("adam").unwrap());
        assert!(matmul < adam && text.contains("75.0 %") && text.contains("400.00 ms a step"), "{text}");
    }
}
