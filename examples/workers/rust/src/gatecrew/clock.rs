//! What is known of a gateway's clock: it shows how long a message lay before it was read.

use std::time::{Duration, Instant};

const DRIFT: f64 = 0.001; // a gateway's clock may run so much slower than ours

pub(crate) struct Clock {
    started: Instant,
    offset_ms: f64, // between our clock and the gateway's, with the fastest message's way
    at_ms: f64,     // when we last looked
}

impl Default for Clock {
    fn default() -> Self {
        Self { started: Instant::now(), offset_ms: f64::INFINITY, at_ms: 0.0 }
    }
}

impl Clock {
    /// What a message that is read now took longer than the fastest one; nothing from a gateway that does not say when
    /// it sent it.
    pub fn unread(&mut self, sent_ms: u64) -> Duration {
        if sent_ms == 0 {
            return Duration::ZERO;
        }
        let now_ms = self.started.elapsed().as_secs_f64() * 1000.0;
        let difference_ms = now_ms - sent_ms as f64;
        self.offset_ms = difference_ms.min(self.offset_ms + (now_ms - self.at_ms) * DRIFT);
        self.at_ms = now_ms;
        Duration::from_secs_f64((difference_ms - self.offset_ms) / 1000.0)
    }
}
