//! What the agent begins by itself: scrubs, one at a time, at the rate that was set for them; and reclaims. They are
//! operations like others, so they can be watched and cancelled.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::{reclaim_work, scrub};
use crate::codec::RepositoryId;
use crate::engine::{Depth, ReclaimSchedule, Result, ScrubHistory, ScrubOptions};
use crate::service::agent::Agent;
use crate::service::proto::OperationState;

/// How often it is looked what is due.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// After one that did not come to its end: whoever cancelled it, or what made it fail, gets its time.
const REST: Duration = Duration::from_secs(15 * 60);

/// Never returns.
pub(in crate::service) async fn keep_scrubbing(agent: &Agent) {
    let scrubs = agent.settings().scrubs;
    let kinds = [
        (Depth::Full, scrubs.full_every),
        (Depth::Structure, scrubs.structure_every),
    ];
    let mut resting = HashMap::new();
    loop {
        for header in agent.store().repositories().await {
            for (depth, every) in kinds {
                let Some(every) = every else { continue };
                resting.retain(|_, until| *until > Instant::now());
                if resting.contains_key(&(header.id, depth)) {
                    continue;
                }
                match scrub_if_due(agent, header.id, depth, every).await {
                    Ok(None | Some(OperationState::Done)) => {}
                    Ok(Some(_)) => {
                        resting.insert((header.id, depth), Instant::now() + REST);
                    }
                    // Its key is not there, or somebody else scrubs it: what was due is due again at the next look.
                    Err(error) => tracing::debug!(%error, repository = header.name, "a scrub that is due cannot begin"),
                }
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// How often it is looked whether there is space to give back: soon enough where there is no room for puts.
const RECLAIM_LOOK_EVERY: Duration = Duration::from_secs(5);
/// After a reclaim that failed or was cancelled.
const RECLAIM_REST: Duration = Duration::from_secs(60);

/// Gives back space when that is due, in one repository after the other. Never returns.
pub(in crate::service) async fn keep_reclaiming(agent: &Agent) {
    let reclaims = agent.settings().reclaims;
    if !reclaims.automatic {
        return std::future::pending().await;
    }
    let mut schedules = HashMap::new();
    let mut resting = HashMap::new();
    loop {
        resting.retain(|_, until| *until > Instant::now());
        let headers = agent.store().repositories().await;
        schedules.retain(|id, _| headers.iter().any(|header| header.id == *id));
        for header in headers {
            if resting.contains_key(&header.id) {
                continue;
            }
            let schedule = schedules
                .entry(header.id)
                .or_insert_with(|| ReclaimSchedule::new(reclaims.garbage_percent));
            match reclaim_if_due(agent, header.id, schedule).await {
                Ok(None | Some(OperationState::Done)) => {}
                Ok(Some(_)) => drop(resting.insert(header.id, Instant::now() + RECLAIM_REST)),
                // Its key is not there, or the storage does not answer: the mode tells.
                Err(error) => {
                    tracing::debug!(%error, repository = header.name, "whether space can be given back is not known");
                    resting.insert(header.id, Instant::now() + RECLAIM_REST);
                }
            }
        }
        tokio::time::sleep(RECLAIM_LOOK_EVERY).await;
    }
}

/// How it ended, if it was due.
async fn reclaim_if_due(
    agent: &Agent,
    id: RepositoryId,
    schedule: &mut ReclaimSchedule,
) -> Result<Option<OperationState>> {
    let repository = agent.store().repository(&id.to_string()).await?;
    let Some(options) = schedule.due(&repository).await? else {
        return Ok(None);
    };
    let work = reclaim_work(repository.clone(), options);
    let operation = agent.operations().start(work, agent.settings().observer.clone())?;
    tracing::info!(repository = %id, garbage_percent = options.garbage_percent_max, "a reclaim that is due begins");
    operation.ended().await;
    let state = operation.now().state();
    if state == OperationState::Done {
        schedule.ended(&repository, options)?;
    }
    Ok(Some(state))
}

/// How it ended, if it was due.
async fn scrub_if_due(
    agent: &Agent,
    id: RepositoryId,
    depth: Depth,
    every: Duration,
) -> Result<Option<OperationState>> {
    let mut history = agent.store().scrub_history(id, depth)?;
    if depth < Depth::Full {
        let fuller = agent.store().scrub_history(id, Depth::Full)?.completed_ms;
        history.completed_ms = history.completed_ms.max(fuller);
    }
    if !is_due(&history, every, jiff::Timestamp::now().as_millisecond()) {
        return Ok(None);
    }
    let repository = agent.store().repository(&id.to_string()).await?;
    let options = ScrubOptions {
        depth,
        rate_bytes: Some(agent.settings().scrubs.rate_bytes),
        from: history.next,
        ..ScrubOptions::default()
    };
    let work = scrub::remembered(repository, options);
    let operation = agent.operations().start(work, agent.settings().observer.clone())?;
    tracing::info!(repository = %id, %depth, "a scrub that is due begins");
    operation.ended().await;
    Ok(Some(operation.now().state()))
}

/// What was begun is brought to its end. A clock that was set back makes nothing wait for the time it showed before.
fn is_due(history: &ScrubHistory, every: Duration, now_ms: i64) -> bool {
    let since = history.completed_ms.and_then(|then| u64::try_from(now_ms - then).ok());
    history.next.is_some() || since.is_none_or(|ms| u128::from(ms) >= every.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrub_is_due_when_its_time_has_come_or_one_is_to_go_on() {
        let hour = Duration::from_secs(3600);
        let at = |completed_ms| ScrubHistory {
            completed_ms,
            next: None,
        };
        assert!(is_due(&at(None), hour, 5_000_000));
        assert!(!is_due(&at(Some(1_500_000)), hour, 5_000_000));
        assert!(is_due(&at(Some(1_400_000)), hour, 5_000_000));
        assert!(is_due(&at(Some(6_000_000)), hour, 5_000_000), "the clock was set back");
        let begun = ScrubHistory {
            completed_ms: Some(4_999_999),
            next: Some("1 full tables".parse().unwrap()),
        };
        assert!(is_due(&begun, hour, 5_000_000));
    }
}
