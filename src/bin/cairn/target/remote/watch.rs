//! The status of an agent, as it changes.

use tonic::Streaming;

use cairn_agent::engine::{Error, Reason, Result, Status};
use cairn_agent::service::proto;

use super::{Agent, convert};

/// The agent tells at once what matters, and numbers once a second at most.
pub(crate) struct Watch {
    agent: Agent,
    stream: Streaming<proto::WatchStatusResponse>,
}

impl Watch {
    pub(super) async fn start(agent: Agent) -> Result<Self> {
        let answer = agent.agent_client().watch_status(proto::WatchStatusRequest {}).await;
        let stream = answer.map_err(|status| agent.failed(&status))?.into_inner();
        Ok(Self { agent, stream })
    }

    pub(crate) async fn next(&mut self) -> Result<Status> {
        match self.stream.message().await {
            Ok(Some(message)) => convert::status(convert::needed(message.status)?),
            Ok(None) => {
                let line = format!("the agent at {} tells its status no longer", self.agent.address);
                Err(Error::new(Reason::ShuttingDown, line))
            }
            Err(status) => Err(self.agent.failed(&status)),
        }
    }
}
