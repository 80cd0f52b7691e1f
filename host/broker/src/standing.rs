//! A host's standing at Redis: one connection that Redis drops when the process dies, and the record that is kept on it.
//!
//! The connection is subscribed to a channel of the host's own, so that peers see by one cheap question whether it is
//! there. The sign of life goes over the same connection, and thereby proves it.

use std::time::Duration;

use baton_model::{FunctionId, HostId, HostRecord, OfflineReason, Room, RunningCall};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo as _, ProtocolVersion, PushInfo, PushKind, Value, cmd};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::BrokerError;
use crate::keys::{Keys, presence_name};
use crate::link::{COMMAND_TIMEOUT, CONNECT_TIMEOUT};
use crate::presence::record_lasts_ms;

/// How many words may wait. More are dropped: each is a hint only.
const WORDS_MAX: usize = 1024;
/// How long an answer waits for whoever asked.
const ANSWER_LASTS: Duration = Duration::from_secs(10);

/// What hosts and callers tell a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    /// This host came, or has changed its record.
    Joined(HostId),
    /// This host is gone: it left, or somebody saw that it is.
    Gone(HostId, OfflineReason),
    /// Somebody wants to know which calls this host has. The answer goes to [`Standing::answer`].
    Calls(String),
    /// A call of this function was accepted that is due after so many milliseconds, before any other of its delayed calls.
    Due(FunctionId, u64),
    /// Somebody wants to know what room this host has for calls of a function. The answer goes to [`Standing::answer_room`].
    Room(String, FunctionId),
    /// Somebody takes the call of this entry back.
    Cancel(FunctionId, String),
}

/// What a host answers to [`Word::Calls`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) host: HostId,
    pub(crate) calls: Vec<RunningCall>,
}

/// A host's standing. Dropping it closes the connection, which peers take for the host's end.
pub struct Standing {
    connection: MultiplexedConnection,
    pushes: mpsc::Receiver<PushInfo>,
    keys: Keys,
    host: HostId,
}

impl Standing {
    pub(crate) async fn open(client: &Client, keys: Keys, host: HostId) -> Result<Self, BrokerError> {
        let info = client.get_connection_info().clone();
        // Only then can one connection both hear and speak.
        let redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = Client::open(info.set_redis_settings(redis).into_connection_info()?)?;
        let (sender, pushes) = mpsc::channel(WORDS_MAX);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(COMMAND_TIMEOUT))
            .set_push_sender(move |push| sender.try_send(push));
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let name = cmd("CLIENT").arg("SETNAME").arg(presence_name(host.as_str())).to_owned();
        connection.send_packed_command(&name).await.and_then(Value::extract_error)?;
        connection.subscribe(&[keys.host_channel(&host), keys.hosts_channel()]).await?;
        Ok(Self { connection, pushes, keys, host })
    }

    /// Writes the record and takes its place among the hosts that are online. Peers are told.
    ///
    /// # Errors
    /// Any [`BrokerError`]; the standing is to be made anew.
    pub async fn register(&mut self, record: &HostRecord) -> Result<(), BrokerError> {
        let mut write = redis::pipe();
        // The record first: who is online without one is held for somebody that nobody knows.
        write.add_command(self.write(record)?);
        write.cmd("SADD").arg(self.keys.online()).arg(self.host.as_str());
        write.cmd("ZREM").arg(self.keys.offline()).arg(self.host.as_str());
        write.cmd("PUBLISH").arg(self.keys.hosts_channel()).arg(Word::Joined(self.host.clone()).encode());
        let answers = self.connection.send_packed_commands(&write, 0, write.len()).await?;
        answers.into_iter().try_for_each(|answer| answer.extract_error().map(drop))?;
        Ok(())
    }

    /// Gives a sign of life without writing anything, which Redis lets through when its memory is full. False if there
    /// is no record any more: then the host has to register anew.
    ///
    /// # Errors
    /// Any [`BrokerError`]; the standing is to be made anew unless it is [`BrokerError::Unable`].
    pub async fn beat(&mut self) -> Result<bool, BrokerError> {
        let beat = cmd("PEXPIRE").arg(self.keys.host(&self.host)).arg(record_lasts_ms()).to_owned();
        let answer = self.connection.send_packed_command(&beat).await.and_then(Value::extract_error)?;
        Ok(answer == Value::Int(1))
    }

    /// Writes the record anew, which is a sign of life too. False if there was none any more: then the host has to
    /// register anew. If there is `news` in it, peers are told, so that they look.
    ///
    /// # Errors
    /// Any [`BrokerError`]; the standing is to be made anew unless it is [`BrokerError::Unable`].
    pub async fn update(&mut self, record: &HostRecord, news: bool) -> Result<bool, BrokerError> {
        let mut write = redis::pipe();
        write.add_command(self.write(record)?.arg("XX").to_owned());
        if news {
            write.cmd("PUBLISH").arg(self.keys.hosts_channel()).arg(Word::Joined(self.host.clone()).encode());
        }
        let answers = self.connection.send_packed_commands(&write, 0, write.len()).await?;
        let mut answers = answers.into_iter().map(Value::extract_error);
        let written = answers.next().unwrap_or(Ok(Value::Nil))?;
        Ok(written != Value::Nil)
    }

    fn write(&self, record: &HostRecord) -> Result<redis::Cmd, BrokerError> {
        let json = serde_json::to_string(record).map_err(|e| BrokerError::Refused(format!("a host record: {e}")))?;
        Ok(cmd("SET").arg(self.keys.host(&self.host)).arg(json).arg("PX").arg(record_lasts_ms()).to_owned())
    }

    /// The next word. Dropping the future loses none.
    ///
    /// # Errors
    /// [`BrokerError::Unreachable`] when the connection is gone; the standing is to be made anew.
    pub async fn next_word(&mut self) -> Result<Word, BrokerError> {
        loop {
            let lost = || BrokerError::Unreachable("the presence connection was closed".to_owned());
            let push = self.pushes.recv().await.ok_or_else(lost)?;
            match push.kind {
                PushKind::Disconnection => return Err(lost()),
                PushKind::Message => {
                    let Some(Value::BulkString(text)) = push.data.last() else { continue };
                    match serde_json::from_slice(text) {
                        Ok(word) => return Ok(word),
                        // A newer version may say more than this one understands.
                        Err(error) => tracing::debug!(%error, "a word that this host does not understand"),
                    }
                }
                _other => {}
            }
        }
    }

    /// Answers [`Word::Calls`].
    ///
    /// # Errors
    /// Any [`BrokerError`]; the standing is to be made anew.
    pub async fn answer(&mut self, question: &str, calls: &[RunningCall]) -> Result<(), BrokerError> {
        self.say(question, &Answer { host: self.host.clone(), calls: calls.to_vec() }).await
    }

    /// Answers [`Word::Room`].
    ///
    /// # Errors
    /// Any [`BrokerError`]; the standing is to be made anew.
    pub async fn answer_room(&mut self, question: &str, room: &Room) -> Result<(), BrokerError> {
        self.say(question, room).await
    }

    async fn say(&mut self, question: &str, answer: &impl Serialize) -> Result<(), BrokerError> {
        let json = serde_json::to_string(answer).map_err(|e| BrokerError::Refused(format!("an answer: {e}")))?;
        let key = self.keys.answers(question);
        let mut write = redis::pipe();
        write.cmd("RPUSH").arg(&key).arg(json);
        write.cmd("PEXPIRE").arg(&key).arg(u64::try_from(ANSWER_LASTS.as_millis()).unwrap_or(u64::MAX));
        // Whatever Redis says of it: whoever asked looks elsewhere if there is no answer.
        self.connection.send_packed_commands(&write, 0, write.len()).await?;
        Ok(())
    }
}

impl Word {
    /// As it is published.
    pub(crate) fn encode(&self) -> String {
        serde_json::to_string(self).expect("a word has only texts in it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_written() {
        let host = HostId::parse("h-1").unwrap();
        let due = Word::Due("acme/resize".parse().unwrap(), 1500);
        assert_eq!(due.encode(), r#"{"due":["acme/resize",1500]}"#);
        let cancel = Word::Cancel("acme/resize".parse().unwrap(), "1-0".to_owned());
        assert_eq!(cancel.encode(), r#"{"cancel":["acme/resize","1-0"]}"#, "a script writes it too");
        let words = [
            Word::Joined(host.clone()),
            Word::Gone(host, OfflineReason::Crashed),
            Word::Calls("q".to_owned()),
            due,
            cancel,
        ];
        for word in words {
            assert_eq!(serde_json::from_str::<Word>(&word.encode()).unwrap(), word);
        }
        assert!(serde_json::from_str::<Word>(r#"{"later":1}"#).is_err(), "an unknown word is no word");
    }
}
