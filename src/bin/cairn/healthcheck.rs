//! `cairn healthcheck`: whether an agent answers, as an exit code. The health command of a container.

use std::time::Duration;

use clap::Args;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use cairn_agent::http;

use crate::failure::{Failure, innermost};

const HTTP_DEFAULT: &str = "127.0.0.1:7421";
/// An agent that needs longer is not well.
const TIME_MAX: Duration = Duration::from_secs(3);

/// Ask an agent on this machine whether it is ready: exit code 0 if so, 1 if not
#[derive(Args)]
pub(crate) struct Healthcheck {
    /// Ask its gRPC health service at unix:///path or http://host:port instead
    #[arg(long, value_name = "ADDR", conflicts_with = "http")]
    agent: Option<String>,
    /// Where its HTTP port is [default: 127.0.0.1:7421]
    #[arg(long, value_name = "HOST:PORT")]
    http: Option<String>,
}

impl Healthcheck {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        // An agent may also be named by the environment, for all commands.
        let (address, asked) = match self.agent.filter(|_| self.http.is_none()) {
            Some(address) => (address.clone(), tokio::time::timeout(TIME_MAX, ask_grpc(address)).await),
            None => {
                let address = self.http.unwrap_or_else(|| HTTP_DEFAULT.to_owned());
                let asked = tokio::time::timeout(TIME_MAX, ask_http(address.clone())).await;
                (address, asked)
            }
        };
        let asked = asked.unwrap_or_else(|_| Err(format!("no answer within {} seconds", TIME_MAX.as_secs())));
        asked.map_err(|problem| Failure::failed(format!("the agent at {address} is not ready: {problem}")))
    }
}

async fn ask_http(address: String) -> Result<(), String> {
    let (number, text) = http::ask(&address, "/readyz")
        .await
        .map_err(|error| error.to_string())?;
    match number {
        200 => Ok(()),
        _ => Err(format!("{number} {}", text.trim())),
    }
}

async fn ask_grpc(address: String) -> Result<(), String> {
    let endpoint = tonic::transport::Endpoint::from_shared(address).map_err(|error| error.to_string())?;
    let channel = endpoint.connect().await.map_err(|error| innermost(&error))?;
    let request = HealthCheckRequest { service: String::new() };
    let answer = HealthClient::new(channel).check(request).await;
    match answer
        .map_err(|status| status.message().to_owned())?
        .into_inner()
        .status()
    {
        ServingStatus::Serving => Ok(()),
        other => Err(other.as_str_name().to_owned()),
    }
}
