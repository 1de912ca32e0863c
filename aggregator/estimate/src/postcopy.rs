//! Post-copy and stop-and-copy: the migrations that always end, at another price.
//! Knows nothing of reads by the guest, so faults are a lower bound.

use crate::precopy::{Left, simulate_until, wire_bytes};
use crate::scene::{PAGE_BYTES, PAGE_WIRE_BYTES, Scene, ZERO_SCAN_S, ZERO_WIRE_BYTES};

/// What a simulated post-copy came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PostcopyRun {
    /// From the start to the switch-over.
    pub switch_s: f64,
    /// Time in which the guest does not run; the size of its memory does not matter.
    pub downtime_s: f64,
    /// Time in which the guest runs on the target without all of its memory.
    pub degraded_s: f64,
    /// From the start to the last page.
    pub total_s: f64,
    /// Bytes on the wire.
    pub bytes: f64,
    /// Times that the dirty bitmap was fetched.
    pub syncs: u64,
    /// Pages that the guest is expected to write to before they have come.
    pub remote_faults: f64,
}

/// Runs a post-copy that is switched over `after_s` after the start, or after the first pass if absent.
///
/// A page comes at a time spread evenly over the degraded time T, so a class of n pages written at rate a
/// waits for n * (1 - (1 - exp(-a T)) / (a T)) of them.
pub fn postcopy(scene: &Scene, after_s: Option<f64>) -> PostcopyRun {
    let left = simulate_until(scene, after_s);
    let normal: f64 = left.pages.iter().sum();
    let zero_bytes = left.zero_pages * ZERO_WIRE_BYTES;
    // One more byte a page than pre-copy (QEMU migration/ram.c names the block again); the cap is lifted.
    let left_bytes = wire_bytes(normal) + normal + zero_bytes;
    let degraded_s = left_bytes / scene.line_rate + left.zero_pages * ZERO_SCAN_S;
    let downtime_s = scene.fixed_downtime_s();
    PostcopyRun {
        switch_s: scene.setup_s + left.at_s,
        downtime_s,
        degraded_s,
        total_s: scene.setup_s + left.at_s + downtime_s + degraded_s,
        bytes: left.bytes + left_bytes + scene.state_bytes,
        syncs: left.syncs,
        remote_faults: remote_faults(scene, &left, degraded_s),
    }
}

fn remote_faults(scene: &Scene, left: &Left, degraded_s: f64) -> f64 {
    left.pages
        .iter()
        .zip(scene.dirty.classes())
        .map(|(pages, class)| {
            let writes = class.writes_per_s * degraded_s;
            if writes > 1e-9 {
                pages * (1.0 + (-writes).exp_m1() / writes)
            } else {
                0.0
            }
        })
        .sum()
}

/// What a stopped guest's migration comes to: total and downtime are the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StopCopyRun {
    /// From the start to the end.
    pub total_s: f64,
    /// Bytes on the wire.
    pub bytes: f64,
}

/// Copies a stopped guest: T = D = touched bytes / b + fixed costs. The cap holds, for QEMU
/// sees a pre-copy of a guest that writes nothing.
pub fn stop_copy(scene: &Scene) -> StopCopyRun {
    let all = scene.guest_bytes + scene.device_bytes;
    let normal = scene.touched_bytes / PAGE_BYTES;
    let zero = (all - scene.touched_bytes).max(0.0) / PAGE_BYTES;
    let bytes = normal * PAGE_WIRE_BYTES + zero * ZERO_WIRE_BYTES;
    StopCopyRun {
        total_s: scene.setup_s
            + scene.fixed_downtime_s()
            + bytes / scene.wire_rate()
            + zero * ZERO_SCAN_S,
        bytes: bytes + scene.state_bytes,
    }
}
