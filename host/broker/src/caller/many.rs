//! Many calls at once: a batch of one function's, and one call to many functions.

use std::time::Duration;

use baton_model::{CallId, FunctionId, Name, ResultDocument};
use bytes::Bytes;
use futures_util::future::try_join_all;
use redis::{Value, cmd, pipe};

use super::{Caller, SendOptions, id_of, result_of};
use crate::BrokerError;

/// For how much longer than results which functions a fan-out went to is known after it was last asked.
const FANOUT_KEPT: Duration = Duration::from_secs(24 * 3600);

/// What came of sending a fan-out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FannedOut {
    /// Each of its calls is accepted, or had been.
    Sent,
    /// Under its id a fan-out went to other functions. Nothing was sent.
    Elsewhere,
}

impl Caller {
    /// Sends calls of one function in one step: Redis has all of them or none. Where one has an id of its own, or
    /// waits, or where Redis allows no such step, they go one by one in one round trip. Gives their ids, in order.
    ///
    /// # Errors
    /// Any [`BrokerError`]; whether the calls were accepted is then unknown unless they have ids of their own.
    pub async fn send_all(
        &self,
        function: &FunctionId,
        calls: &[(Bytes, SendOptions)],
    ) -> Result<Vec<CallId>, BrokerError> {
        if calls.is_empty() {
            return Ok(Vec::new());
        }
        if calls.iter().any(|(_, options)| options.delay.is_some() || options.id.is_some()) {
            return try_join_all(calls.iter().map(|(payload, options)| self.send(function, payload, options))).await;
        }
        // A tenant's own user may add calls, and not several in one step.
        if !*self.steps.get_or_try_init(|| self.may_step()).await? {
            return try_join_all(calls.iter().map(|(payload, options)| self.send(function, payload, options))).await;
        }
        let mut all = pipe();
        all.atomic();
        for (payload, options) in calls {
            all.add_command(self.entry(function, payload, options, None)?);
        }
        let mut open = self.link.connection().await?;
        match self.link.run_as_one(&mut open, &all).await? {
            Value::Array(answers) if answers.len() == calls.len() => {
                calls.iter().zip(&answers).map(|((_, options), answer)| id_of(options, answer)).collect()
            }
            other => Err(BrokerError::shape("EXEC", &other)),
        }
    }

    /// Whether Redis lets this user do several things in one step. It is found out before there is anything to be done: where
    /// the beginning of a step is refused, its commands are carried out all the same.
    async fn may_step(&self) -> Result<bool, BrokerError> {
        let mut step = pipe();
        step.cmd("MULTI");
        step.cmd("DISCARD");
        let begun = self.link.run_all(&step).await?.into_iter().next().map(Value::extract_error);
        match begun.transpose().map_err(BrokerError::from) {
            Ok(_) => Ok(true),
            Err(error) if error.is_forbidden() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The results of these calls, as far as they have ended, in order.
    ///
    /// # Errors
    /// Any [`BrokerError`]; [`BrokerError::Refused`] if what stands somewhere is no result document.
    pub async fn results(&self, calls: &[(FunctionId, CallId)]) -> Result<Vec<Option<ResultDocument>>, BrokerError> {
        if calls.is_empty() {
            return Ok(Vec::new());
        }
        let mut all = pipe();
        for (function, id) in calls {
            all.cmd("GET").arg(self.keys.result(function, id));
        }
        let answers = self.link.run_all(&all).await?;
        calls.iter().zip(answers).map(|((_, id), answer)| result_of(id, answer)).collect()
    }

    /// An id for a fan-out whose caller chose none.
    #[must_use]
    pub fn new_id() -> CallId {
        let text = format!("{:032x}", rand::random::<u128>());
        CallId::parse(&text).expect("32 hex digits are an id")
    }

    /// Sends one payload to these functions of `tenant`, in calls that have this id each in its own function. Doing it again
    /// sends no call twice, and finishes what was cut short. Nothing is sent if another fan-out has the id.
    ///
    /// # Errors
    /// Any [`BrokerError`]; some of the calls may have been accepted, and it may be done again.
    pub async fn fan_out(
        &self,
        (tenant, id): (&Name, &CallId),
        functions: &[FunctionId],
        payload: &[u8],
        options: &SendOptions,
    ) -> Result<FannedOut, BrokerError> {
        if self.note_fanout(tenant, id, functions).await? != functions {
            return Ok(FannedOut::Elsewhere);
        }
        let calls: Vec<_> = functions.iter().map(|function| (function.clone(), id.clone())).collect();
        let results = self.results(&calls).await?;
        let options = SendOptions { id: Some(id.clone()), ..options.clone() };
        // The same id is the same call: where it has ended already, nothing is sent.
        let open = functions.iter().zip(results).filter(|(_, result)| result.is_none());
        try_join_all(open.map(|(function, _)| self.send(function, payload, &options))).await?;
        Ok(FannedOut::Sent)
    }

    /// Writes down which functions a fan-out goes to, before any call of it is sent. If that was done before under this
    /// id, gives what stands there.
    async fn note_fanout(
        &self,
        tenant: &Name,
        id: &CallId,
        functions: &[FunctionId],
    ) -> Result<Vec<FunctionId>, BrokerError> {
        let list = functions.iter().map(FunctionId::to_string).collect::<Vec<_>>().join(" ");
        let mut note = cmd("SET");
        note.arg(self.keys.fanout(tenant, id)).arg(list).arg("NX").arg("GET").arg("PX").arg(self.fanout_ms());
        let earlier = functions_of(&self.link.run(&note).await?)?;
        Ok(earlier.unwrap_or_else(|| functions.to_vec()))
    }

    /// The functions that a fan-out went to, in the order in which they were given. None if there is no such fan-out,
    /// or nobody has asked for it for longer than a day and results are kept.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn fanout(&self, tenant: &Name, id: &CallId) -> Result<Option<Vec<FunctionId>>, BrokerError> {
        let mut get = cmd("GETEX");
        get.arg(self.keys.fanout(tenant, id)).arg("PX").arg(self.fanout_ms());
        functions_of(&self.link.run(&get).await?)
    }

    fn fanout_ms(&self) -> u64 {
        u64::try_from((self.result_ttl + FANOUT_KEPT).as_millis()).unwrap_or(u64::MAX)
    }
}

fn functions_of(answer: &Value) -> Result<Option<Vec<FunctionId>>, BrokerError> {
    let shape = || BrokerError::shape("GET", answer);
    match answer {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) => {
            let text = std::str::from_utf8(bytes).map_err(|_| shape())?;
            text.split(' ').map(str::parse).collect::<Result<_, _>>().map(Some).map_err(|_| shape())
        }
        _ => Err(shape()),
    }
}
