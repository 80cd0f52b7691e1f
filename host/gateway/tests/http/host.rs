//! A host without functions: it reads calls and settles them by what their payload says.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use baton_broker::{
    BrokerConfig, Delivery, Incoming, Next, Presence, Queue, ReadEnd, Reader, Settled, Settlement, Settler,
};
use baton_model::{
    Call, CallError, Digest, FunctionId, HostId, HostRecord, HostState, LoadedFunction, ResultDocument, Status,
};
use bytes::Bytes;
use serde_json::json;
use tokio::sync::{mpsc, watch};

/// A host that runs until the test ends.
pub(crate) struct FakeHost {
    /// How many calls it has read.
    pub(crate) read: watch::Receiver<usize>,
    release: mpsc::UnboundedSender<()>,
}

struct Hand {
    host: HostId,
    settle: mpsc::Sender<Settled<()>>,
    held: Vec<Delivery>,
}

impl FakeHost {
    /// Starts one that has these functions and says so.
    pub(crate) async fn start(config: &BrokerConfig, name: &str, functions: &[&str]) -> Result<Self> {
        let host: HostId = name.parse().map_err(anyhow::Error::msg)?;
        let functions: Vec<FunctionId> = functions.iter().map(|f| f.parse()).collect::<Result<_, _>>()?;
        let queue = Queue::new(config)?;
        queue.ensure_groups(&functions).await?;
        register(config, &host, HostState::Online, &functions).await?;
        let (mut reader, _) = Reader::new(config, host.clone())?;
        let (settler, settle) = Settler::new(config, host.clone())?;
        tokio::spawn(settler.run(|(), _| {}));
        let (count, read) = watch::channel(0);
        let (release, mut released) = mpsc::unbounded_channel();
        let (deliveries, mut inbox) = mpsc::unbounded_channel();
        let from = ReadEnd::new(queue.keys(), functions);
        // A read is driven to its end, in a task of its own.
        tokio::spawn(async move {
            while let Ok(incoming) = reader.read(&from, 10, Some(Duration::from_millis(200))).await {
                for one in incoming {
                    if let Incoming::Call(delivery) = one {
                        _ = deliveries.send(delivery);
                    }
                }
            }
        });
        tokio::spawn(async move {
            let mut hand = Hand { host, settle, held: Vec::new() };
            loop {
                tokio::select! {
                    Some(delivery) = inbox.recv() => {
                        hand.take(delivery).await;
                        count.send_modify(|count| *count += 1);
                    }
                    Some(()) = released.recv() => hand.release().await,
                    else => return,
                }
            }
        });
        Ok(Self { read, release })
    }

    /// Waits until it has read so many calls.
    pub(crate) async fn has_read(&self, calls: usize) {
        self.read.clone().wait_for(|read| *read >= calls).await.expect("the host runs");
    }

    /// Lets it answer every call that it holds.
    pub(crate) fn release(&self) {
        self.release.send(()).expect("the host runs");
    }
}

/// Writes a host's record.
pub(crate) async fn register(
    config: &BrokerConfig,
    host: &HostId,
    state: HostState,
    functions: &[FunctionId],
) -> Result<()> {
    let digest = Digest::of(b"component");
    let record = HostRecord {
        id: host.clone(),
        machine: "machine-1".to_owned(),
        pid: 1,
        version: "0".to_owned(),
        state,
        seats: 8,
        in_flight: 0,
        lease_ms: 30_000,
        started_ms: 1,
        last_seen_ms: None,
        reason: None,
        functions: functions
            .iter()
            .map(|f| LoadedFunction { function: f.clone(), digest, schedules: Vec::new() })
            .collect(),
    };
    let mut standing = Presence::new(config)?.stand(host).await?;
    standing.register(&record).await?;
    // It is there for as long as somebody holds this.
    tokio::spawn(async move { while standing.next_word().await.is_ok() {} });
    Ok(())
}

impl Hand {
    async fn take(&mut self, delivery: Delivery) {
        let call = delivery.call.clone();
        let fail = |status, code: &str| self.document(&call, status, Some(code), Bytes::new());
        let settlement = match &call.payload[..] {
            b"hold" => {
                self.held.push(delivery);
                return;
            }
            b"refuse" => finish(&call, fail(Status::Error, "too-blue")),
            b"expire" => finish(&call, fail(Status::Expired, "deadline")),
            b"trap" => Settlement::Bury {
                id: call.id.clone(),
                execution: None,
                document: fail(Status::Dead, "trap"),
                reply: call.reply.clone(),
                reason: "trap".to_owned(),
                error: "unreachable".to_owned(),
                attempts: 1,
                digest: None,
                accepted_ms: call.accepted_ms,
                notes: Vec::new(),
            },
            b"later" => Settlement::Requeue {
                id: call.id.clone(),
                attempt: 2,
                accepted_ms: call.accepted_ms,
                after: Some(Duration::from_secs(3600)),
                history: None,
            },
            b"describe" => {
                let said = json!({ "id": call.id, "own": call.id_is_own, "type": call.media_type, "headers": call.headers,
                    "traceparent": call.traceparent, "tracestate": call.tracestate, "deadline": call.deadline_ms });
                finish(&call, self.document(&call, Status::Ok, None, said.to_string().into()))
            }
            _ => finish(&call, self.document(&call, Status::Ok, None, call.payload.clone())),
        };
        self.send(delivery, settlement).await;
    }

    async fn release(&mut self) {
        for delivery in std::mem::take(&mut self.held) {
            let said = format!("{} was held", delivery.call.function);
            let document = self.document(&delivery.call, Status::Ok, None, said.into());
            let settlement = finish(&delivery.call, document);
            self.send(delivery, settlement).await;
        }
    }

    async fn send(&self, delivery: Delivery, settlement: Settlement) {
        let function = delivery.call.function.clone();
        let settled =
            Settled { function, lease: delivery.lease, read: None, next: Next::Nothing, settlement, ticket: () };
        self.settle.send(settled).await.expect("the settler runs");
    }

    fn document(&self, call: &Arc<Call>, status: Status, code: Option<&str>, payload: Bytes) -> Vec<u8> {
        let mut document = ResultDocument::new(status, call.id.clone(), call.media_type.clone(), payload);
        document.error = code.map(|code| CallError { code: code.to_owned(), message: format!("it said {code}") });
        document.attempts = call.attempt;
        document.host = Some(self.host.clone());
        document.encode()
    }
}

fn finish(call: &Call, document: Vec<u8>) -> Settlement {
    Settlement::finish(call, document)
}
