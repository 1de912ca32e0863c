//! Why inputs are refused. Missing inputs are not errors: they widen the bounds and raise a flag.

/// An input that no migration can have. Each text names the field and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// The guest has no memory.
    #[error("memory_total is zero; give the size of the guest's memory")]
    MemoryZero,
    /// The guest has more memory than any machine.
    #[error("memory_total is {bytes} bytes, above the limit of {limit_bytes}; check its unit")]
    MemoryTooLarge {
        /// What was given.
        bytes: u64,
        /// The most that is taken.
        limit_bytes: u64,
    },
    /// The link carries nothing.
    #[error("bandwidth.rate is zero; give what the link can carry, or leave the estimate out")]
    BandwidthZero,
    /// The cap lets nothing through.
    #[error("policy.max_bandwidth is zero; leave it out for no cap")]
    BandwidthCapZero,
    /// A share above the whole.
    #[error("{field} is {millionths} millionths, above the whole; give a share between 0 and 1")]
    ShareAboveOne {
        /// The field.
        field: &'static str,
        /// What was given.
        millionths: u64,
    },
    /// A dirty-rate window that cannot be measured.
    #[error("a dirty point has a window of {window_ms} ms; give 1 ms to one hour")]
    DirtyWindow {
        /// What was given.
        window_ms: u32,
    },
    /// Too many dirty points.
    #[error("{count} dirty points were given, at most {limit} are taken; keep the newest")]
    DirtyPointsTooMany {
        /// How many were given.
        count: usize,
        /// The most that are taken.
        limit: usize,
    },
    /// A downtime profile without a limit.
    #[error("policy.downtime allows no downtime at all; give a limit of at least 1 ms")]
    DowntimeLimitZero,
    /// A ramp without steps.
    #[error("policy.downtime is a ramp of {steps} steps; give 1 to {limit}")]
    RampSteps {
        /// What was given.
        steps: u32,
        /// The most that are taken.
        limit: u32,
    },
    /// A timeout that has passed before the start.
    #[error("policy.timeout_ms is zero; leave it out for no timeout")]
    TimeoutZero,
    /// An overcommit ratio of zero.
    #[error("the {resource} overcommit ratio is zero; give 1 for no overcommit")]
    RatioZero {
        /// Which resource.
        resource: &'static str,
    },
}
