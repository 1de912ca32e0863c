//! Calls about jobs, dirty rates and the limits of migrations.

use crate::connection::{Connection, decode, encode};
use crate::domain::DomainRef;
use crate::error::CallError;
use crate::events::JOB_PARAMS_MAX;
use crate::flags::{DirtyRateMode, JobStatsFlags};
use crate::job::{JobInfo, JobStats};
use crate::procedure::{
    DOMAIN_GET_JOB_INFO, DOMAIN_GET_JOB_STATS, DOMAIN_MIGRATE_GET_MAX_DOWNTIME,
    DOMAIN_MIGRATE_GET_MAX_SPEED, DOMAIN_START_DIRTY_RATE_CALC,
};
use crate::typed::TypedParams;
use crate::xdr::Decoder;
use std::time::Duration;

impl Connection {
    /// Statistics of a domain's job, or of the one that ended last; may ask the monitor.
    pub async fn job_stats(
        &self,
        domain: &DomainRef,
        flags: JobStatsFlags,
        deadline: Duration,
    ) -> Result<JobStats, CallError> {
        let reply = self
            .domain_call(DOMAIN_GET_JOB_STATS, domain, flags.bits(), deadline)
            .await?;
        decode(DOMAIN_GET_JOB_STATS, &reply, |decoder| {
            let kind = decoder.i32()?;
            Ok(JobStats {
                kind,
                params: TypedParams::decode(decoder, JOB_PARAMS_MAX)?,
            })
        })
    }

    /// The fixed set of figures of a domain's job; may ask the monitor.
    pub async fn job_info(
        &self,
        domain: &DomainRef,
        deadline: Duration,
    ) -> Result<JobInfo, CallError> {
        let args = encode(DOMAIN_GET_JOB_INFO, |encoder| domain.encode(encoder))?;
        let reply = self.call(DOMAIN_GET_JOB_INFO, &args, deadline).await?;
        decode(DOMAIN_GET_JOB_INFO, &reply, |decoder| {
            Ok(JobInfo {
                kind: decoder.i32()?,
                time_elapsed_ms: decoder.u64()?,
                time_remaining_ms: decoder.u64()?,
                data_total_bytes: decoder.u64()?,
                data_processed_bytes: decoder.u64()?,
                data_remaining_bytes: decoder.u64()?,
                memory_total_bytes: decoder.u64()?,
                memory_processed_bytes: decoder.u64()?,
                memory_remaining_bytes: decoder.u64()?,
                disk_total_bytes: decoder.u64()?,
                disk_processed_bytes: decoder.u64()?,
                disk_remaining_bytes: decoder.u64()?,
            })
        })
    }

    /// Starts measuring a domain's dirty rate for 1 to 60 seconds; the result comes with
    /// [`crate::StatsGroups::DIRTYRATE`].
    ///
    /// Needs a read-write connection. The daemon takes the domain's job for it, so on a migrating
    /// domain it waits for the end of the migration.
    pub async fn start_dirty_rate_calc(
        &self,
        domain: &DomainRef,
        seconds: u8,
        mode: DirtyRateMode,
        deadline: Duration,
    ) -> Result<(), CallError> {
        let args = encode(DOMAIN_START_DIRTY_RATE_CALC, |encoder| {
            domain.encode(encoder)?;
            encoder.i32(i32::from(seconds));
            encoder.u32(mode.bits());
            Ok(())
        })?;
        let reply = self
            .call(DOMAIN_START_DIRTY_RATE_CALC, &args, deadline)
            .await?;
        decode(DOMAIN_START_DIRTY_RATE_CALC, &reply, |_| Ok(()))
    }

    /// Longest standstill a migration of this domain may cause, in milliseconds; asks the
    /// monitor.
    pub async fn migrate_max_downtime_ms(
        &self,
        domain: &DomainRef,
        deadline: Duration,
    ) -> Result<u64, CallError> {
        let procedure = DOMAIN_MIGRATE_GET_MAX_DOWNTIME;
        let reply = self.domain_call(procedure, domain, 0, deadline).await?;
        decode(procedure, &reply, Decoder::u64)
    }

    /// Bandwidth limit of a migration of this domain, in MiB each second.
    ///
    /// Needs a read-write connection.
    pub async fn migrate_max_speed_mib_per_second(
        &self,
        domain: &DomainRef,
        deadline: Duration,
    ) -> Result<u64, CallError> {
        let procedure = DOMAIN_MIGRATE_GET_MAX_SPEED;
        let reply = self.domain_call(procedure, domain, 0, deadline).await?;
        decode(procedure, &reply, Decoder::u64)
    }
}
