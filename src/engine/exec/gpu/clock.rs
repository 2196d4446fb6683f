//! A replay with a clock beside it: `gpurec run --profile`.

use super::GpuExecutor;
use crate::engine::exec::PlanId;
use crate::error::Result;
use std::time::Instant;

impl GpuExecutor {
    /// Replays the plan with the device's clock read between its steps.
    pub(super) fn timed_by_device(&mut self, id: PlanId, encoder: &mut wgpu::CommandEncoder) -> Result<Vec<f64>> {
        let action_ends = &self.bound(id).action_ends;
        let count = action_ends.len() as u32 + 1;
        let ty = wgpu::QueryType::Timestamp;
        let clock = self.device.device.create_query_set(&wgpu::QuerySetDescriptor { label: Some("clock"), ty, count });
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let times = self.device.buffer("times", 2 * count as usize, usage)?;
        let mut begin = 0;
        encoder.write_timestamp(&clock, 0);
        for (&end, index) in action_ends.iter().zip(1..) {
            self.encode(id, begin..end, encoder);
            encoder.write_timestamp(&clock, index);
            begin = end;
        }
        encoder.resolve_query_set(&clock, 0..count, &times, 0);
        self.submit_and_wait(encoder)?;
        let words = self.read_buffer(&times, 0, 2 * count as usize)?;
        let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&words);
        let second = 1e-9 * f64::from(self.device.queue.get_timestamp_period());
        Ok(ticks.windows(2).map(|pair| second * pair[1].saturating_sub(pair[0]) as f64).collect())
    }

    /// Replays the plan a step at a time, waiting for each: includes what a submit costs.
    pub(super) fn timed_by_waiting(&mut self, id: PlanId, encoder: &mut wgpu::CommandEncoder) -> Result<Vec<f64>> {
        self.submit_and_wait(encoder)?;
        let (mut begin, mut seconds) = (0, Vec::new());
        for end in self.bound(id).action_ends.clone() {
            let started = Instant::now();
            self.encode(id, begin..end, encoder);
            self.submit_and_wait(encoder)?;
            seconds.push(started.elapsed().as_secs_f64());
            begin = end;
        }
        Ok(seconds)
    }

    /// Runs what has been encoded, and leaves an empty encoder.
    fn submit_and_wait(&mut self, encoder: &mut wgpu::CommandEncoder) -> Result<()> {
        let fresh = self.device.device.create_command_encoder(&Default::default());
        self.device.queue.submit([std::mem::replace(encoder, fresh).finish()]);
        self.wait()
    }
}
