//! What `gpurec bench` found: as a table, as a file, and beside an earlier file.

use crate::bench::{Measured, Peaks};
use crate::cli::console::table;
use crate::error::{Error, Result};
use indicatif::HumanBytes;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The file of `--json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub device: String,
    pub gpurec: String,
    pub peaks: Peaks,
    pub results: Vec<Row>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub kernel: String,
    pub shape: String,
    /// `cpu`, `gpu` or `reference`.
    pub executor: String,
    /// `fwd`, `fwd+bwd`, `step`, `rank` or `request`.
    pub direction: String,
    pub median_ms: f64,
    pub min_ms: f64,
    pub p90_ms: f64,
    pub gflops: f64,
    pub gbps: f64,
    /// Of whichever ceiling is nearer: arithmetic or memory traffic.
    pub peak_share: f64,
    pub extra_bytes: u64,
    pub dispatches: usize,
    /// Of inference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users_per_second: Option<f64>,
    /// Of single requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Service>,
}

/// A model in service.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Service {
    pub p99_ms: f64,
    pub requests_per_second: f64,
    pub parameter_bytes: u64,
}

impl Row {
    pub fn new(kernel: &str, shape: String, executor: &str, direction: &str, measured: &Measured, peaks: Peaks) -> Row {
        let median = measured.median();
        let (gflops, gbps) = (1e-9 * measured.flops as f64 / median, 1e-9 * measured.bytes as f64 / median);
        Row {
            kernel: kernel.into(),
            shape,
            executor: executor.into(),
            direction: direction.into(),
            median_ms: 1e3 * median,
            min_ms: 1e3 * measured.quantile(0.0),
            p90_ms: 1e3 * measured.quantile(0.9),
            gflops,
            gbps,
            peak_share: (gflops / peaks.gflops).max(gbps / peaks.gbps),
            extra_bytes: measured.extra_bytes,
            dispatches: measured.dispatches,
            users_per_second: None,
            service: None,
        }
    }

    /// What makes two rows comparable.
    fn key(&self) -> [&str; 4] {
        [&self.kernel, &self.shape, &self.executor, &self.direction]
    }
}

impl Report {
    pub fn read(path: &Path) -> Result<Report> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read the baseline", path, e))?;
        let problem =
            |e| Error::Format { path: path.into(), problem: format!("not a file of `gpurec bench --json`: {e}") };
        serde_json::from_str(&text).map_err(problem)
    }

    pub fn text(&self) -> String {
        let rates = self.results.iter().any(|row| row.users_per_second.is_some());
        let service = self.results.iter().any(|row| row.service.is_some());
        let columns =
            ["kernel", "shape", "", "median ms", "min", "p90", "GFLOP/s", "GB/s", "of peak", "extra", "dispatches"];
        let of_service = ["p99", "requests/s", "parameters"].into_iter().filter(|_| service);
        let header: Vec<&str> = columns.into_iter().chain(rates.then_some("users/s")).chain(of_service).collect();
        let row = |row: &Row| {
            let rate = row.users_per_second.map_or(String::new(), |rate| format!("{rate:.0}"));
            let cells = [
                row.kernel.clone(),
                row.shape.clone(),
                row.direction.clone(),
                format!("{:.3}", row.median_ms),
                format!("{:.3}", row.min_ms),
                format!("{:.3}", row.p90_ms),
                format!("{:.1}", row.gflops),
                format!("{:.2}", row.gbps),
                format!("{:.0} %", 100.0 * row.peak_share),
                HumanBytes(row.extra_bytes).to_string(),
                row.dispatches.to_string(),
            ];
            let of_service = row.service.map_or(<[String; 3]>::default(), |service| {
                let Service { p99_ms, requests_per_second, parameter_bytes } = service;
                [format!("{p99_ms:.3}"), format!("{requests_per_second:.0}"), HumanBytes(parameter_bytes).to_string()]
            });
            cells.into_iter().chain(rates.then_some(rate)).chain(of_service.into_iter().filter(|_| service))
        };
        let Peaks { gflops, gbps, copied_bytes } = self.peaks;
        format!(
            "{}\nceilings measured here: {gflops:.1} GFLOP/s (fused multiply-adds in registers), {gbps:.1} GB/s (copy of {})\n\
             {}\nGFLOP/s counts the products of the mathematics, not what is computed twice; GB/s each input read once and each\n\
             output written once; \"of peak\" is the nearer ceiling; \"extra\" is memory beyond inputs, outputs and gradients.",
            self.device,
            HumanBytes(copied_bytes),
            table(&header, self.results.iter().map(row), 3),
        ) + &self.student_beside_teacher()
    }

    /// A line where two networks of one model were measured in service, the teacher first.
    fn student_beside_teacher(&self) -> String {
        let served = self.results.iter().filter_map(|row| Some((row.median_ms, row.service?.parameter_bytes as f64)));
        match served.collect::<Vec<_>>()[..] {
            [teacher, student] => format!(
                "\nstudent / teacher: {:.3} of the time, {:.3} of the parameters (DRL-Rec reports 0.767 of the computation and\n\
                 0.497 of the memory)",
                student.0 / teacher.0,
                student.1 / teacher.1
            ),
            _ => String::new(),
        }
    }

    /// A table of the ratios to an earlier report, and the largest. Rows without a partner are left out.
    pub fn compare(&self, before: &Report) -> Result<(String, f64)> {
        let partner = |row: &Row| before.results.iter().find(|b| b.key() == row.key()).map(|b| b.median_ms);
        let pairs: Vec<(&Row, f64)> = self.results.iter().filter_map(|row| Some((row, partner(row)?))).collect();
        if pairs.is_empty() {
            let help = "compare with a report of the same kernels, shapes and kind of device";
            return Err(Error::usage("the baseline holds nothing that was measured now", help));
        }
        let ratio = |(row, before): &(&Row, f64)| row.median_ms / before;
        let rows = pairs.iter().map(|pair| {
            let (row, before) = pair;
            let [kernel, shape, _, direction] = row.key().map(String::from);
            [
                kernel,
                shape,
                direction,
                format!("{before:.3}"),
                format!("{:.3}", row.median_ms),
                format!("{:.2}", ratio(pair)),
            ]
        });
        let header = ["kernel", "shape", "", "before, ms", "now, ms", "ratio"];
        let text = format!("beside {}\n{}", before.device, table(&header, rows, 3));
        Ok((text, pairs.iter().map(ratio).fold(0.0, f64::max)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(medians: &[(&str, f64)]) -> Report {
        let peaks = Peaks { gflops: 100.0, gbps: 10.0, copied_bytes: 4 };
        let row = |&(kernel, ms): &(&str, f64)| {
            let measured =
                Measured { samples: vec![ms / 1e3; 3], flops: 1_000_000, bytes: 1_000, extra_bytes: 0, dispatches: 1 };
            Row::new(kernel, "rows=1".into(), "cpu", "fwd", &measured, peaks)
        };
        Report { device: "cpu".into(), gpurec: "0".into(), peaks, results: medians.iter().map(row).collect() }
    }

    #[test]
    fn the_largest_ratio_is_that_of_the_kernel_that_slowed_most() {
        let (before, now) =
            (report(&[("a", 2.0), ("b", 1.0), ("gone", 1.0)]), report(&[("a", 1.0), ("b", 3.0), ("new", 9.0)]));
        let (text, worst) = now.compare(&before).unwrap();
        assert!((worst - 3.0).abs() < 1e-12);
        assert!(text.contains("0.50") && text.contains("3.00") && !text.contains("new"));
        assert!(report(&[("new", 1.0)]).compare(&before).is_err());
    }

    #[test]
    fn the_share_is_that_of_the_nearer_ceiling() {
        // 1 MFLOP and 1 kB in a millisecond: 1 GFLOP/s of 100, 0.001 GB/s of 10.
        assert!((report(&[("a", 1.0)]).results[0].peak_share - 0.01).abs() < 1e-12);
    }
}
