//! How a reclaim makes way: after each step it rests in proportion to what the step took, as long as puts or gets are under
//! way. The faster the machine, the shorter the rests; with nobody else there, there are none.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::engine::core::Core;
use crate::engine::in_flight::InFlight;
use crate::engine::write::upload::RestRule;

/// Rests are so many times as long as the step before.
const REST_FACTOR: u32 = 3;
/// And no longer than this, so that a step that waited for a slow backend does not stop the work.
const REST_MAX: Duration = Duration::from_secs(1);

/// The pace of one run.
pub(crate) struct Pace {
    in_flight: Arc<InFlight>,
}

impl Pace {
    pub(crate) fn new(core: &Core) -> Self {
        Self {
            in_flight: core.in_flight.clone(),
        }
    }

    /// A step begins.
    pub(crate) fn step(&self) -> Step<'_> {
        Step {
            pace: self,
            began: Instant::now(),
        }
    }

    fn rest_after(&self, step: Duration) -> Duration {
        rest_after(&self.in_flight, step)
    }

    /// The same as a rule for whoever does the steps.
    pub(crate) fn rule(&self) -> RestRule {
        let in_flight = self.in_flight.clone();
        Arc::new(move |step| rest_after(&in_flight, step))
    }
}

fn rest_after(in_flight: &InFlight, step: Duration) -> Duration {
    match in_flight.is_busy() {
        true => step.saturating_mul(REST_FACTOR).min(REST_MAX),
        false => Duration::ZERO,
    }
}

/// A step under way.
#[must_use]
pub(crate) struct Step<'a> {
    pace: &'a Pace,
    began: Instant,
}

impl Step<'_> {
    /// The step has ended: rests, if others are at work.
    pub(crate) async fn rest(self) {
        let rest = self.pace.rest_after(self.began.elapsed());
        if !rest.is_zero() {
            tokio::time::sleep(rest).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_rests_only_beside_others() {
        let in_flight = Arc::new(InFlight::default());
        let pace = Pace {
            in_flight: in_flight.clone(),
        };
        let step = Duration::from_millis(20);
        let _ours = in_flight.background_holder();
        assert_eq!(pace.rest_after(step), Duration::ZERO);
        let put = in_flight.holder();
        assert_eq!(pace.rest_after(step), 3 * step);
        assert_eq!(pace.rest_after(Duration::from_secs(60)), REST_MAX);
        drop(put);
        assert_eq!(pace.rest_after(step), Duration::ZERO);
    }
}
