//! Every Redis key and channel of Baton, made in one place from parsed names.
//!
//! All keys of one function share the hash tag `{tenant/function}`, so that one script can touch them in Redis Cluster.
//! A name has no brace, colon or slash in it, so a tenant cannot reach another's keys by choosing a name.

use baton_model::{Bucket, CallId, Digest, FunctionId, HostId, Name, Priority, ReplyTo};

/// The consumer group of all hosts, unless another one is set.
pub(crate) const GROUP: &str = "hosts";

/// Makes keys and channels under one prefix.
#[derive(Debug, Clone)]
pub struct Keys {
    prefix: Box<str>,
    group: Box<str>,
}

/// The name of the connection through which a host settles. `host` is the name of its consumer.
pub(crate) fn settler_name(host: &str) -> String {
    format!("baton-settler-{host}")
}

/// The name of the connection on which a host reads calls.
pub(crate) fn reader_name(host: &str) -> String {
    format!("baton-reader-{host}")
}

/// The name of the connection by which a host shows that it is there.
pub(crate) fn presence_name(host: &str) -> String {
    format!("baton-presence-{host}")
}

/// What a coordination channel tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// A revision takes calls.
    Ready,
    /// A host stops taking calls.
    Shutdown,
    /// A host is gone.
    Offline,
    /// How a host is.
    Health,
}

impl Keys {
    /// Keys under `prefix`, `baton` by default.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.into(), group: GROUP.into() }
    }

    /// The same for another consumer group.
    #[must_use]
    pub fn read_by(self, group: &str) -> Self {
        Self { group: group.into(), ..self }
    }

    /// The consumer group of all hosts.
    pub(crate) fn group(&self) -> &str {
        &self.group
    }

    /// The stream of calls that are to be done, but for those of other levels than the normal one.
    #[must_use]
    pub fn calls(&self, function: &FunctionId) -> String {
        format!("{}:{{{function}}}:calls", self.prefix)
    }

    /// The stream of calls of this level that are to be done.
    pub(crate) fn calls_at(&self, function: &FunctionId, level: Priority) -> String {
        of_level(self.calls(function), level)
    }

    /// The terminal result of one call.
    #[must_use]
    pub fn result(&self, function: &FunctionId, id: &CallId) -> String {
        format!("{}:{{{function}}}:result:{id}", self.prefix)
    }

    /// What came of an event that was an entry of the call stream. No id has a space in it, so this is no call's, nor that of an
    /// event of another execution.
    pub(crate) fn event_result(&self, function: &FunctionId, execution: &CallId, event: &CallId) -> String {
        format!("{}:{{{function}}}:result:{execution} {event}", self.prefix)
    }

    /// What stands for a call that was accepted under an id of its caller's choice and has not ended.
    pub(crate) fn mark(&self, function: &FunctionId, id: &CallId) -> String {
        format!("{}:{{{function}}}:id:{id}", self.prefix)
    }

    /// What is known of one execution beside its log.
    pub(crate) fn execution(&self, function: &FunctionId, id: &CallId) -> String {
        format!("{}:{{{function}}}:exec:{id}", self.prefix)
    }

    /// How the keys of what is known of a function's executions start.
    pub(crate) fn executions_of(&self, function: &FunctionId) -> String {
        format!("{}:{{{function}}}:exec:", self.prefix)
    }

    /// A component that executions of a function run on.
    pub(crate) fn component(&self, function: &FunctionId, digest: &Digest) -> String {
        format!("{}:{{{function}}}:component:{digest}", self.prefix)
    }

    /// The event log of one execution.
    pub(crate) fn log(&self, function: &FunctionId, id: &CallId) -> String {
        format!("{}:{{{function}}}:log:{id}", self.prefix)
    }

    /// The executions of a function, by when they began.
    pub(crate) fn executions(&self, function: &FunctionId) -> String {
        format!("{}:{{{function}}}:execs", self.prefix)
    }

    /// The calls that wait for their time, by due time.
    #[must_use]
    pub fn delayed(&self, function: &FunctionId) -> String {
        format!("{}:{{{function}}}:delayed", self.prefix)
    }

    /// What its executions wait for that comes by itself: their timers, and runs of them that were put back, by due time. They are
    /// no calls, and do not count among those that wait.
    pub(crate) fn timers(&self, function: &FunctionId) -> String {
        format!("{}:{{{function}}}:timers", self.prefix)
    }

    /// Whose turn it is among the calls of each key.
    pub(crate) fn turns(&self, function: &FunctionId) -> String {
        format!("{}:{{{function}}}:turns", self.prefix)
    }

    /// The calls that wait for their turn.
    pub(crate) fn line(&self, function: &FunctionId) -> String {
        format!("{}:{{{function}}}:line", self.prefix)
    }

    /// The calls that were given up.
    #[must_use]
    pub fn dead(&self, function: &FunctionId) -> String {
        format!("{}:{{{function}}}:dead", self.prefix)
    }

    /// Which dead letter is the latest of each call.
    pub(crate) fn letters(&self, function: &FunctionId) -> String {
        format!("{}:{{{function}}}:letters", self.prefix)
    }

    /// Up to when the ticks of each schedule were dealt with.
    #[must_use]
    pub fn ticks(&self, function: &FunctionId) -> String {
        format!("{}:{{{function}}}:ticks", self.prefix)
    }

    /// How often each entry was claimed from another host; an entry that never was is not in it.
    #[must_use]
    pub fn claims(&self, function: &FunctionId) -> String {
        format!("{}:{{{function}}}:claims", self.prefix)
    }

    /// The same for entries of the stream of this level.
    pub(crate) fn claims_at(&self, function: &FunctionId, level: Priority) -> String {
        of_level(self.claims(function), level)
    }

    /// What a bucket holds. The bucket's name comes last, so that no name of one makes the key of another. All buckets
    /// of a tenant share one hash tag, so that a script can write to one and keep the tenant's count.
    pub(crate) fn bucket(&self, bucket: &Bucket) -> String {
        let owner = bucket.owner.as_ref().map_or("", Name::as_str);
        format!("{}:{{{}}}:kv:{owner}:{}", self.prefix, bucket.tenant, bucket.name)
    }

    /// How many bytes all buckets of a tenant hold.
    pub(crate) fn bucket_bytes(&self, tenant: &Name) -> String {
        format!("{}:{{{tenant}}}:kv", self.prefix)
    }

    /// Which functions a fan-out went to.
    pub(crate) fn fanout(&self, tenant: &Name, id: &CallId) -> String {
        format!("{}:{{{tenant}}}:fanout:{id}", self.prefix)
    }

    /// The ids of all hosts that registered and were not yet seen to be gone.
    #[must_use]
    pub fn online(&self) -> String {
        format!("{}:{{hosts}}:online", self.prefix)
    }

    /// The ids of hosts that are gone, by when they were last seen.
    #[must_use]
    pub fn offline(&self) -> String {
        format!("{}:{{hosts}}:offline", self.prefix)
    }

    /// One host's record.
    #[must_use]
    pub fn host(&self, host: &HostId) -> String {
        format!("{}:{{hosts}}:host:{host}", self.prefix)
    }

    /// What is written to see whether Redis takes writes.
    pub(crate) fn probe(&self) -> String {
        format!("{}:{{hosts}}:probe", self.prefix)
    }

    /// By what hosts know what hosts wrote.
    pub(crate) fn seal(&self) -> String {
        format!("{}:{{hosts}}:seal", self.prefix)
    }

    /// Where hosts put their answers to one question.
    pub(crate) fn answers(&self, question: &str) -> String {
        format!("{}:{{hosts}}:answers:{question}", self.prefix)
    }

    /// The channel that a host is subscribed to as long as its process lives.
    #[must_use]
    pub fn host_channel(&self, host: &HostId) -> String {
        format!("{}:host:{host}", self.prefix)
    }

    /// The channel on which hosts tell each other who came and who went.
    #[must_use]
    pub fn hosts_channel(&self) -> String {
        format!("{}:hosts", self.prefix)
    }

    /// How the channel of every host starts.
    pub(crate) fn host_channels(&self) -> String {
        format!("{}:host:", self.prefix)
    }

    /// How every channel for notices starts.
    pub(crate) fn reply_channels(&self) -> String {
        format!("{}:reply:", self.prefix)
    }

    /// Where one caller listens for notices.
    #[must_use]
    pub fn reply_channel(&self, reply: &ReplyTo) -> String {
        format!("{}:reply:{reply}", self.prefix)
    }

    /// The channel on which `notice` is told about `function`.
    #[must_use]
    pub fn notice_channel(&self, notice: Notice, function: &FunctionId) -> String {
        let topic = match notice {
            Notice::Ready => "function:ready",
            Notice::Shutdown => "function:shutdown",
            Notice::Offline => "function:offline",
            Notice::Health => "worker:health",
        };
        format!("{}:{topic}:{}:{}", self.prefix, function.function(), function.tenant())
    }

    /// A pattern that the health channel of every function matches.
    pub(crate) fn health_pattern(&self) -> String {
        format!("{}:worker:health:*", self.prefix)
    }

    /// A pattern that every call stream of a tenant for calls of this level matches, and no key of another's.
    pub(crate) fn calls_of(&self, tenant: &Name, level: Priority) -> String {
        of_level(format!("{}:{{{tenant}/*}}:calls", self.prefix), level)
    }

    /// A pattern that every result of a tenant matches, and no key of another's.
    pub(crate) fn results_of(&self, tenant: &Name) -> String {
        format!("{}:{{{tenant}/*}}:result:*", self.prefix)
    }

    /// A pattern that every reply channel of a tenant's own matches.
    pub(crate) fn replies_of(&self, tenant: &Name) -> String {
        format!("{}:reply:{tenant}.*", self.prefix)
    }

    /// A pattern that every call stream matches, of whatever level.
    pub(crate) fn calls_pattern(&self) -> String {
        format!("{}:{{*}}:calls*", self.prefix)
    }

    /// The function whose call stream this is, of whatever level. None if the key is no call stream.
    pub(crate) fn function_of_calls(&self, key: &str) -> Option<FunctionId> {
        let rest = key.strip_prefix(&*self.prefix)?.strip_prefix(":{")?;
        let (function, level) = rest.split_once("}:calls")?;
        let is_level = |level: &str| level.parse().is_ok_and(|level: Priority| !level.is_normal());
        let is_stream = level.is_empty() || level.strip_prefix(':').is_some_and(is_level);
        function.parse().ok().filter(|_| is_stream)
    }
}

fn of_level(mut key: String, level: Priority) -> String {
    match level {
        Priority::Normal => {}
        Priority::High | Priority::Low => {
            key.push(':');
            key.push_str(level.as_str());
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_protocol() {
        let keys = Keys::new("baton");
        let function: FunctionId = "acme/resize".parse().unwrap();
        let id = CallId::parse("1-0").unwrap();
        assert_eq!(keys.calls(&function), "baton:{acme/resize}:calls");
        assert_eq!(keys.result(&function, &id), "baton:{acme/resize}:result:1-0");
        assert_eq!(keys.mark(&function, &id), "baton:{acme/resize}:id:1-0");
        assert_eq!(keys.delayed(&function), "baton:{acme/resize}:delayed");
        assert_eq!(keys.dead(&function), "baton:{acme/resize}:dead");
        assert_eq!(keys.letters(&function), "baton:{acme/resize}:letters");
        assert_eq!(keys.ticks(&function), "baton:{acme/resize}:ticks");
        assert_eq!(keys.reply_channel(&ReplyTo::parse("me").unwrap()), "baton:reply:me");
        assert_eq!(keys.notice_channel(Notice::Ready, &function), "baton:function:ready:resize:acme");
        assert_eq!(keys.notice_channel(Notice::Health, &function), "baton:worker:health:resize:acme");
        assert_eq!(keys.calls_at(&function, Priority::Normal), "baton:{acme/resize}:calls");
        assert_eq!(keys.calls_at(&function, Priority::High), "baton:{acme/resize}:calls:high");
        assert_eq!(keys.claims_at(&function, Priority::Low), "baton:{acme/resize}:claims:low");
        assert_eq!(keys.function_of_calls("baton:{acme/resize}:calls"), Some(function.clone()));
        assert_eq!(keys.function_of_calls("baton:{acme/resize}:calls:low"), Some(function));
        for other in ["dead", "calls:normal", "calls:", "callsign"] {
            assert_eq!(keys.function_of_calls(&format!("baton:{{acme/resize}}:{other}")), None, "{other}");
        }
        let mut bucket = Bucket { tenant: Name::parse("acme").unwrap(), owner: None, name: "a:b".into() };
        assert_eq!(keys.bucket(&bucket), "baton:{acme}:kv::a:b");
        bucket.owner = Some(Name::parse("resize").unwrap());
        assert_eq!(keys.bucket(&bucket), "baton:{acme}:kv:resize:a:b");
        assert_eq!(keys.bucket_bytes(&bucket.tenant), "baton:{acme}:kv");
    }
}
