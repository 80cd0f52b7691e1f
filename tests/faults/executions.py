#!/usr/bin/env python3
"""Judges executions of `order`: executions.py PLAN

PLAN is JSON: where Redis is, and of each execution its input, its payments and what its caller was answered. Each log is
read from Redis, folded into a state and replayed, by code that shares nothing with the host; held against that are the
state that Redis has beside it, its result, its plan and the ledgers of the services that it called. Or PLAN has the ids of
executions of any function as "logs", and then it is only their states that are held against them. Prints figures and
findings as JSON. Exit status 0: no finding; 1: findings; 3: nothing could be judged. Python 3.11, no other library."""

import json
import sys
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from checker import execution, shop  # noqa: E402
from checker.document import documents  # noqa: E402
from checker.resp import Redis  # noqa: E402

#: What ends with an attempt asking for another, by the item.
TRIED_AGAIN = ("flaky", "lost", "cursed")


class Judge:
    """What was found so far."""

    def __init__(self, redis, plan):
        self.redis, self.plan = redis, plan
        self.prefix, self.tenant = plan.get("prefix", "baton"), plan.get("tenant", "default")
        self.findings, self.ends = [], Counter()
        #: call id -> (function, item of its order, its result document if it has one)
        self.calls = {}
        self.facts = self.events = 0

    def key(self, function, rest):
        return f"{self.prefix}:{{{self.tenant}/{function}}}:{rest}"

    def found(self, whose, what):
        self.findings.append(f"{whose}: {what}")

    def executions(self):
        """Each execution by itself."""
        for plan in self.plan["executions"]:
            try:
                self.one(plan)
            except (execution.Damaged, ValueError, KeyError) as error:
                self.found(plan["id"], f"{type(error).__name__}: {error}")
        known = set(self.redis("ZRANGE", self.key("order", "execs"), 0, -1))
        planned = {plan["id"].encode() for plan in self.plan["executions"]}
        if known != planned:
            self.found("the list", f"has {len(known - planned)} that nobody began, and lacks {len(planned - known)}")

    def one(self, plan):
        """Its log, its state, its result, its plan and its calls."""
        name = plan["id"]
        entries = self.redis("XRANGE", self.key("order", f"log:{name}"), "-", "+")
        facts, _ = execution.read(entries)
        state = execution.fold(entries)
        for what in execution.differences(state, self.redis("HGETALL", self.key("order", f"exec:{name}"))):
            self.found(name, what)
        if json.loads(facts[0].fields["payload"]) != plan["input"]:
            self.found(name, f"its log begins with {facts[0].fields['payload']!r}")
        self.facts += len(facts)
        self.events += len(state.events)
        end, told = shop.replay(name, facts), shop.said(facts[-1])
        if end != told and (told, end[0]) != (("cancelled",), "waits"):
            self.found(name, f"it ended as {told}, and its replay as {end}")
        allowed = shop.predicted(plan)
        if shop.outcome(told) not in allowed:
            self.found(name, f"it ended as {told}, and its plan allows {sorted(map(str, allowed))}")
        self.ends[" ".join(map(str, told[:2] if told[0] == "failed" else told[:1]))] += 1
        self.heard(plan, state)
        if told != ("waits",):
            self.result(plan, facts, told)
        for fact in facts:
            if fact.word == "call-scheduled":
                self.call(name, plan, facts, fact)

    def logs(self):
        """Executions of any function: their logs and their states."""
        for name in self.plan["logs"]:
            try:
                state = execution.fold(self.redis("XRANGE", self.key("order", f"log:{name}"), "-", "+"))
            except execution.Damaged as error:
                self.found(name, f"Damaged: {error}")
                continue
            for what in execution.differences(state, self.redis("HGETALL", self.key("order", f"exec:{name}"))):
                self.found(name, what)
            self.facts += state.length
            self.ends[state.state] += 1

    def heard(self, plan, state):
        """Each event that was accepted stands in the log, where its sender was told; and no other does."""
        accepted = {payment["id"]: payment["position"] for payment in plan["payments"] if payment.get("position")}
        if state.events != accepted:
            self.found(plan["id"], f"its events are {state.events}, and its senders were told {accepted}")

    def result(self, plan, facts, told):
        """Its result is that of its log, and what its caller was answered is its result."""
        data = self.redis("GET", self.key("order", f"result:{plan['id']}"))
        if data is None:
            return self.found(plan["id"], "it has no result")
        (document,) = documents(data)
        status = {"completed": "ok", "failed": "error", "cancelled": "cancelled"}[told[0]]
        if document.status != status:
            self.found(plan["id"], f"its result is {document.status}, and its log says {told}")
        digest = next((fact.text("digest") for fact in reversed(facts) if fact.word == "moved-to-digest"), None)
        if told[0] != "cancelled" and document.head.get("digest") != digest:
            self.found(plan["id"], f"its result is of {document.head.get('digest')}, and it ran on {digest}")
        said = json.loads(document.payload) if status == "ok" else document.head.get("error", {})
        wanted = told[1] if status == "ok" else {"code": told[1], "message": told[2]} if status == "error" else said
        if said != wanted:
            self.found(plan["id"], f"its result says {said}, and its log {told}")
        answer = plan["answer"]
        http = {"ok": 200, "error": 422, "cancelled": 409}[status]
        body = answer["body"] if status == "ok" else {"code": answer["body"]["code"]}
        if (answer["status"], body) != (http, said if status == "ok" else {"code": said.get("code", "cancelled")}):
            self.found(plan["id"], f"its caller was answered {answer}, and its result says {said}")

    def call(self, name, plan, facts, fact):
        """A call is made once: its id is its own, and its end in the log is the result that the service has."""
        call, function = fact.text("call"), fact.text("function")
        if call in self.calls:
            self.found(name, f"the call {call} is also made by {self.calls[call]}")
        data = self.redis("GET", self.key(function, f"result:{call}"))
        ends = [end for end in facts if end.word == "call-completed" and end.step == fact.step]
        if data is None or len(ends) != 1 or ends[0].fields["result"] != data:
            if not (plan.get("cancelled") and not ends):
                self.found(name, f"step {fact.step} has {len(ends)} ends, and the call {call} the result {data!r}")
        self.calls[call] = (function, plan["input"]["item"], documents(data)[0] if data else None)

    def services(self):
        """What the services saw: each call, each of its attempts once, and nothing else."""
        again = attempts = 0
        for function in ("echo", "sleep"):
            made = {call for call, (of, _, _) in self.calls.items() if of == function}
            tried = {call for call in made if function == "sleep" and self.calls[call][1] in TRIED_AGAIN}
            seen = {}
            ledger = self.redis("HGETALL", f"{self.prefix}:{{{self.tenant}}}:kv:{function}:ledger")
            for pair, count in zip(ledger[::2], ledger[1::2]):
                call, _, attempt = pair.decode().rpartition(" ")
                seen.setdefault(call, {})[int(attempt)] = int(count)
            for call, counts in seen.items():
                attempts += len(counts)
                again += len(counts) - 1 if call not in tried else 0
                if any(count != 1 for count in counts.values()):
                    self.found(call, f"{function} had an attempt more than once: {counts}")
                document = self.calls.get(call, (None, None, None))[2]
                if document and document.head["attempts"] not in counts and document.status != "dead":
                    self.found(call, f"its result is of attempt {document.head['attempts']}, {function} had {counts}")
            if seen.keys() != made:
                self.found(function, f"it had {sorted(seen.keys() - made)}, which nobody made, and lacks {sorted(made - seen.keys())}")
            added = self.entries_added(function)
            most = len(made) + sum(self.attempts(call) - 1 for call in tried)
            if not len(made) <= added <= most:
                self.found(function, f"{added} entries were added for {len(made)} calls and at most {most} attempts")
        return attempts, again

    def attempts(self, call):
        document = self.calls[call][2]
        return document.head["attempts"] if document else 1

    def entries_added(self, function):
        if not self.redis("EXISTS", self.key(function, "calls")):
            return 0
        facts = self.redis("XINFO", "STREAM", self.key(function, "calls"))
        return dict(zip(facts[::2], facts[1::2]))[b"entries-added"]

    def left(self):
        """Nothing is left to do, and no component is held for what has ended."""
        for function in ("order", "echo", "sleep"):
            for what, count in (("calls", "XLEN"), ("delayed", "ZCARD"), ("timers", "ZCARD"), ("claims", "HLEN")):
                if number := self.redis(count, self.key(function, what)):
                    self.found(function, f"{number} are left in {what}")
        if pinned := self.redis("HGETALL", self.key("order", "components")):
            self.found("order", f"components are held for what has ended: {pinned}")


def main():
    """Judges what one plan describes."""
    plan = json.loads(Path(sys.argv[1]).read_text())
    judge = Judge(Redis(plan["redis"]), plan)
    attempts = again = 0
    if "logs" in plan:
        judge.logs()
    else:
        judge.executions()
        attempts, again = judge.services()
        judge.left()
    figures = {
        "executions": judge.ends.total(),
        "ends": dict(sorted(judge.ends.items())),
        "facts": judge.facts,
        "events": judge.events,
        "calls": len(judge.calls),
        "attempts": attempts,
        "lost_and_run_again": again,
        "findings": judge.findings,
    }
    print(json.dumps(figures, indent=1))
    return 1 if judge.findings else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Exception:  # noqa: BLE001 - an error of the checker is no verdict
        traceback.print_exc()
        sys.exit(3)
