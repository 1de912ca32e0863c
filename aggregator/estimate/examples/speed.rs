//! Prints how long one simulation and one whole estimate take. Run it in release mode.

use std::io::Write as _;
use std::time::Duration;

use plimsoll_estimate::{
    BandwidthSource, DirtyModel, DirtyPoint, Inputs, LinkBandwidth, Policy, Scene, estimate,
    simulate,
};
use plimsoll_model::{
    Accelerator, Bandwidth, ByteSize, Clock as _, DirtyRate, MigrationMode, Ratio, SystemClock,
};

const TURNS: u32 = 200;

fn inputs(memory_gib: u64, link_gbit: u64, dirty_mib: u64) -> Inputs {
    let mut inputs = Inputs::new(
        ByteSize::from_mib(memory_gib << 10),
        LinkBandwidth {
            rate: Bandwidth::from_mbit_per_second(link_gbit * 1_000),
            uncertainty: None,
            source: BandwidthSource::Measured,
        },
        Policy::qemu(MigrationMode::Precopy),
    );
    inputs.zero_fraction = Some(Ratio::from_millionths(300_000));
    inputs.accelerator = Some(Accelerator::Kvm);
    inputs.telemetry_age_ms = Some(0);
    inputs.dirty_points = [(1_000, 1), (2_000, 1), (5_000, 2)]
        .map(|(window_ms, part)| {
            DirtyPoint::libvirt(window_ms, DirtyRate::from_mib_per_second(dirty_mib / part))
        })
        .to_vec();
    inputs
}

fn mean(clock: &SystemClock, mut work: impl FnMut()) -> Duration {
    let begin = clock.monotonic();
    for _ in 0..TURNS {
        work();
    }
    clock.monotonic().since(begin) / TURNS
}

fn main() -> std::io::Result<()> {
    let clock = SystemClock::new();
    let mut out = std::io::stdout().lock();
    let cases = [
        ("1 GiB, 1 Gbit/s, 20 MiB/s", inputs(1, 1, 20)),
        ("16 GiB, 10 Gbit/s, 200 MiB/s", inputs(16, 10, 200)),
        ("256 GiB, 10 Gbit/s, 600 MiB/s", inputs(256, 10, 600)),
        (
            "never ends: 16 GiB, 1 Gbit/s, 400 MiB/s",
            inputs(16, 1, 400),
        ),
    ];
    for (name, inputs) in cases {
        let Some(dirty) = DirtyModel::fit(
            &inputs.dirty_points,
            inputs.memory_total,
            inputs.memory_total,
        ) else {
            continue;
        };
        let scene = Scene::new(&inputs, 0.3, dirty);
        let mut ended = 0u32;
        let one = mean(&clock, || ended += u32::from(simulate(&scene).converged));
        let mut told = 0;
        let whole = mean(&clock, || {
            told += estimate(&inputs).map_or(0, |answer| answer.reasons.len());
        });
        writeln!(
            out,
            "{name:<42} one simulation {one:>10.1?}, whole estimate {whole:>10.1?} (ended {ended} of {TURNS}, {told} sentences)"
        )?;
    }
    Ok(())
}
