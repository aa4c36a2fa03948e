//! Typed commands and queries to the root group.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use nexusgrid_codec::GroupId;
use nexusgrid_env::Env;
use nexusgrid_grid::{CommandId, MetaPort, PortError};
use nexusgrid_meta::root::types::{
    RootAnswer, RootCommand, RootError, RootOk, RootQuery, decode_query_reply, decode_reply,
};

/// How long a command or query is repeated.
const PATIENCE: Duration = Duration::from_secs(20);

/// Pause between repetitions.
const PAUSE: Duration = Duration::from_millis(100);

/// The root group.
#[derive(Clone)]
pub struct Root {
    env: Env,
    port: Arc<dyn MetaPort>,
}

impl Root {
    /// Reaches the root group through `port`.
    pub fn new(env: Env, port: Arc<dyn MetaPort>) -> Root {
        Root { env, port }
    }

    /// Has the root group decide: what it says, or that nobody could be asked in time.
    pub async fn decide(&self, command: &RootCommand) -> anyhow::Result<Result<RootOk, RootError>> {
        let mut id = [0; 16];
        self.env.rng.fill(&mut id);
        let bytes = command.encode();
        let reply =
            self.repeat(|| self.port.propose(GroupId(0), CommandId(id), bytes.clone())).await?;
        decode_reply(&reply).context("the root group's reply does not decode")
    }

    /// [`Root::decide`], a refusal being an error too.
    pub async fn command(&self, command: &RootCommand) -> anyhow::Result<RootOk> {
        Ok(self.decide(command).await??)
    }

    /// Asks the root group.
    pub async fn ask(&self, query: &RootQuery) -> anyhow::Result<RootAnswer> {
        let bytes = query.encode();
        let reply = self.repeat(|| self.port.query(GroupId(0), bytes.clone())).await?;
        Ok(decode_query_reply(&reply).context("the root group's answer does not decode")??)
    }

    async fn repeat<F>(&self, mut attempt: impl FnMut() -> F) -> anyhow::Result<Vec<u8>>
    where
        F: Future<Output = Result<Vec<u8>, PortError>>,
    {
        let deadline = self.env.clock.now().plus(PATIENCE);
        loop {
            let failure = match attempt().await {
                Ok(reply) => return Ok(reply),
                Err(PortError::Refused(why)) => bail!(why),
                Err(failure) => failure,
            };
            if self.env.clock.now() >= deadline {
                bail!("the root group cannot decide now: {failure}");
            }
            self.env.clock.sleep(PAUSE).await;
        }
    }
}
