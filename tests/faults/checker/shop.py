"""The sample `order` as a plain function over a log, and what a plan of an order predicts."""

import hashlib
import json

from .document import documents
from .execution import ANSWERS, ASKED, ENDS, Damaged

DAY_MS = 24 * 3600 * 1000
#: Stands for a number that only the function knows.
ANY = object()


class Waits(Exception):
    """The log does not say how it goes on."""


class Refused(Exception):
    """The function, or a service that it calls, says no."""

    def __init__(self, code, message):
        super().__init__(code, message)
        self.code, self.message = code, message


class Run:
    """One run of a function over a log: it may ask for the steps that the log has, and is answered what the log says."""

    def __init__(self, execution, facts):
        self.execution = execution
        self.asked = [fact for fact in facts if fact.word in ASKED]
        self.answers = {fact.step: fact for fact in facts if fact.word in ANSWERS}
        self.inbox = [fact for fact in facts if fact.word == "event-received"]
        self.started = facts[0]
        self.now = facts[0].at
        self.steps = 0

    def step(self, word, **wanted):
        """The next step, as it stands in the log."""
        if self.steps == len(self.asked):
            raise Waits(f"it asks for {word} {wanted}")
        fact = self.asked[self.steps]
        self.steps += 1
        if fact.word != word or fact.step != self.steps:
            raise Damaged(f"step {self.steps} is {fact.word}, and the function asks for {word} {wanted}")
        for name, value in wanted.items():
            said = fact.text("for" if name == "patience" else name)
            if name == "payload":
                said = json.loads(said)
            if not same(value, said):
                raise Damaged(f"step {self.steps}: the {name} of {word} is {said!r}, and should be {value!r}")
        return fact

    def learn(self, fact):
        self.now = max(self.now, fact.at)
        return fact

    def call(self, function, value):
        run, seed = self.started.number("run"), self.started.number("seed")
        begins = hashlib.sha256(f"default/order\n{self.execution}\n{seed}".encode()).hexdigest()[:32]
        self.step("call-scheduled", function=function, call=f"{begins}.{run}.{self.steps + 1}", payload=value)
        if self.steps not in self.answers:
            raise Waits(f"for the end of its call of {function}")
        (document,) = documents(self.learn(self.answers[self.steps]).fields["result"])
        if document.status == "ok":
            return json.loads(document.payload)
        error = document.head["error"]
        raise Refused(error["code"], error["message"])

    def event(self, name, patience):
        self.step("event-awaited", name=name, patience=str(patience))
        timer = self.answers.get(self.steps)
        for fact in self.inbox:
            if fact.text("name") == name and (timer is None or fact.position < timer.position):
                self.inbox.remove(fact)
                return json.loads(self.learn(fact).fields["payload"])
        if timer is None:
            raise Waits(f"for {name}")
        self.learn(timer)
        return None

    def emit(self, name, value):
        self.step("emitted", name=name, payload=value)


def same(wanted, said):
    """Whether a value is the one that is wanted."""
    if wanted is ANY:
        return isinstance(said, int) and 0 <= said < 1_000_000
    if isinstance(wanted, dict):
        return isinstance(said, dict) and wanted.keys() == said.keys() and all(same(wanted[k], said[k]) for k in wanted)
    return wanted == said


def order(run, given):
    """plugins/order, in other words. Gives its receipt."""
    reserved = run.call("echo", {"number": ANY, "item": given["item"]})
    number, item = reserved["number"], reserved["item"]
    run.emit("reserved", number)

    def refund():
        run.call("echo", f"refund {paid} of {number}")

    def release():
        run.call("echo", f"release {number}")
        run.emit("released", number)

    paid, end = 0, run.now + given.get("patience_ms", DAY_MS)
    while paid < given["price"]:
        payment = run.event("payment", max(0, end - run.now))
        if payment is None:
            if paid > 0:
                refund()
            release()
            raise Refused("not-paid", f"{paid} of {given['price']} was paid in time")
        paid += payment["amount"]
    paid_at = run.now
    try:
        run.call("sleep", {"item": item, "reservation": number, "ms": 20})
    except Refused:
        refund()
        release()
        raise
    return {"reservation": number, "item": item, "paid": paid, "paid_at_ms": paid_at}


def replay(execution, facts):
    """What the function comes to over a whole log: ("completed", receipt), ("failed", code, message) or ("waits", what).
    Raises [Damaged] if it would ask for other steps."""
    run = Run(execution, facts)
    try:
        end = ("completed", order(run, json.loads(run.started.fields["payload"])))
    except Refused as refused:
        end = ("failed", refused.code, refused.message)
    except Waits as waits:
        end = ("waits", str(waits))
    if run.steps != len(run.asked):
        raise Damaged(f"step {run.steps + 1} is {run.asked[run.steps].word}, and the function asks for nothing more")
    return end


def said(fact):
    """How a log says that it ended, in the words of [replay]."""
    if fact.word == "completed":
        return ("completed", json.loads(fact.fields["payload"]))
    if fact.word == "failed":
        return ("failed", fact.text("code"), fact.text("message"))
    return (fact.word,) if fact.word in ENDS else ("waits",)


def predicted(plan):
    """Which ends a plan allows, as (word, code or what was paid). Most allow one; what races against the clock has two."""
    if plan.get("cancelled"):
        return {("cancelled", None)}
    given, paid, unpaid = plan["input"], 0, ("failed", "not-paid")
    if given["item"] == "sold-out":
        return {("failed", "sold-out")}
    for payment in plan["payments"]:
        if paid < given["price"]:
            paid += payment["amount"]
    if paid < given["price"]:
        return {unpaid}
    end = {"fragile": ("failed", "broken"), "lost": ("failed", "retry"), "cursed": ("failed", "trap")}
    ends = {end.get(given["item"], ("completed", paid))}
    return ends | {unpaid} if plan["races"] else ends


def outcome(end):
    """An end in the words of [predicted]."""
    return (end[0], end[1]["paid"] if end[0] == "completed" else end[1] if end[0] == "failed" else None)
