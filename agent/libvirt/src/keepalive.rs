//! Own pings: they tell a daemon that has died or stands still from one that is only busy.
//!
//! They do not tell a domain that hangs: the daemon itself answers then, and the deadline of the
//! call is what helps. Answering the daemon's pings is the reader's work.

use crate::connection::Shared;
use crate::error::DisconnectReason;
use crate::packet::render_keepalive;
use crate::procedure::KEEPALIVE_PING;
use std::sync::Arc;
use std::time::Duration;

/// Pings after every interval of silence, and ends the connection after `count` pings and one
/// more interval without a byte.
pub(crate) async fn watch(shared: Arc<Shared>, interval: Duration, count: u32) {
    let mut heard = shared.heard();
    let mut unanswered = 0;
    loop {
        tokio::time::sleep(interval).await;
        let now = shared.heard();
        if now != heard {
            heard = now;
            unanswered = 0;
        } else if unanswered >= count {
            shared.end(DisconnectReason::KeepaliveTimeout);
            return;
        } else {
            unanswered += 1;
            if let Ok(frame) = render_keepalive(KEEPALIVE_PING) {
                shared.send_if_room(frame);
            }
        }
    }
}
