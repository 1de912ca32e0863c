//! What an agent is told when something is not taken: whether it is wrong, or may be sent again later.

use plimsoll_proto::parse::ParseError;
use tonic::Status;

use crate::page::busy;
use crate::writer::WriteError;

/// It is wrong, and will be.
pub(super) fn refused(error: &ParseError) -> Status {
    Status::invalid_argument(error.to_string())
}

/// There is no room for it now.
pub(super) fn later(text: &str) -> Status {
    // Upkeep looks for room this often.
    busy(crate::serve::UPKEEP, text)
}

/// It could not be written.
pub(super) fn unwritten(error: &WriteError) -> Status {
    match error {
        WriteError::Closed => Status::unavailable(error.to_string()),
        WriteError::Store(source) => later(&format!("{error}: {source}")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use plimsoll_store::AppendError;
    use tonic::Code;
    use tonic_types::StatusExt as _;

    use super::*;

    #[test]
    fn want_of_room_tells_the_agent_to_keep_its_samples_and_when_to_come_again() {
        let error = WriteError::Store(Arc::new(AppendError::LowSpace {
            path: PathBuf::from("/data"),
            free_bytes: 1,
            floor_bytes: 2,
        }));
        let status = unwritten(&error);
        assert_eq!(status.code(), Code::ResourceExhausted);
        let retry = status.get_details_retry_info().unwrap();
        assert_eq!(retry.retry_delay, Some(crate::serve::UPKEEP));
        assert!(
            status.message().contains("less than the floor of 2"),
            "{status}"
        );
    }
}
