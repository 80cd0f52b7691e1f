"""Figures for people, a summary for programs, and a timeline of what went wrong."""

import json
from collections import Counter, defaultdict

from .invariants import BLUR_MS, TITLES, growth, lateness, overlaps
from .windows import SHARED


def percentile(values, share):
    """The value that so large a share does not exceed; None of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def recoveries(evidence):
    """Milliseconds from the end that nobody told to the next attempt of the call, by the fault that cut it off."""
    took = defaultdict(list)
    for executions in evidence.executions.values():
        ordered = sorted(executions, key=lambda execution: execution.begin)
        for first, second in zip(ordered, ordered[1:]):
            if first.end is not None or first.gone is None or second.begin < first.gone:
                continue
            # What FLUSHALL took comes back when its caller asks again, and not by anybody's recovery.
            if any(first.begin <= flush.whole + BLUR_MS and flush.t <= second.begin for flush in evidence.history.flushes):
                continue
            at = [f for f in evidence.history.faults if f.slot == first.slot and f.t <= first.gone + 50]
            at = [f for f in at if (f.whole or float("inf")) >= first.gone - 2_000]
            kind = at[-1].kind if at else "other"
            # Nobody is judged within three seconds of trouble with Redis itself.
            troubled = [f for f in evidence.history.faults if f.kind in SHARED and f.t <= second.begin]
            if any((f.whole or float("inf")) + 3_000 >= first.gone for f in troubled):
                kind += ", Redis in trouble"
            took[kind].append(second.begin - first.gone)
    return took


def again(evidence):
    """How many calls had more attempts than they asked for, not counting those that were submitted twice."""
    count = 0
    for key, executions in evidence.executions.items():
        call = evidence.by_call.get(key)
        if call and evidence.entries(key) == 1:
            count += len(executions) > (2 if '"mode":"retry"' in call.payload else 1)
    return count


def summary(evidence, findings):
    """The figures, as JSON has them."""
    history = evidence.history
    took = recoveries(evidence)
    every = [ms for values in took.values() for ms in values]
    wanted = (0.5, 0.99, 1.0)
    rows = list(lateness(evidence))
    calls = history.calls.values()
    first_seen = {key: min(sight.t for sight in sights) for key, sights in evidence.sights.items()}
    waits = [first_seen[c.key] - c.accepted[0][0] for c in calls if c.accepted and c.key in first_seen]
    by_invariant = Counter(finding.invariant for finding in findings)
    texts = [finding.what for finding in findings]
    return {
        "seed": history.run["seed"],
        "durability": history.run["durability"],
        "calls": len(history.calls),
        "accepted": sum(1 for call in calls if call.accepted),
        "unsure": sum(1 for call in calls if not call.accepted and call.unsure),
        "never_accepted": sum(1 for call in calls if not call.accepted and not call.unsure),
        "submissions": sum(len(call.accepted) + len(call.unsure) for call in calls),
        "voided_by_flush": sum(1 for call in calls if evidence.voided(call) and call.key not in first_seen),
        "results": len(evidence.snapshot.results),
        "dead": len(evidence.snapshot.dead),
        "executions": len(history.executions),
        "executed_more_than_once": again(evidence),
        "faults": dict(sorted(Counter(fault.kind for fault in history.faults).items())),
        "lost": sum(text.startswith("lost:") for text in texts),
        "doubled": sum("results: " in text or "second result" in text for text in texts),
        "overlapping": sum(" began while " in text for text in texts),
        "overlapping_excused": sum(excuse is not None for *_, excuse in overlaps(evidence)),
        "claims": len(evidence.ledger.claims),
        "late": sum(quiet > may for _, quiet, may in rows),
        "aof_commands": evidence.ledger.commands,
        "growth": growth(evidence),
        "quiet_after_s": evidence.snapshot.quiet_after,
        "result_after_ms": [percentile(waits, share) for share in wanted],
        "recovery_ms": {kind: [len(v), *(percentile(v, share) for share in wanted)] for kind, v in sorted(took.items())},
        "recovery_all_ms": [len(every), *(percentile(every, share) for share in wanted)],
        "violations": {name: by_invariant[name] for name in TITLES if by_invariant[name]},
        "holds": not findings,
    }


def number(value):
    return "-" if value is None else f"{value:.0f}"


def table(figures):
    """The figures for people."""
    lines = [f"seed {figures['seed']}, appendfsync {figures['durability']}"]
    rows = [
        ("calls made", figures["calls"]),
        ("accepted", figures["accepted"]),
        ("perhaps accepted, their callers were not told", figures["unsure"]),
        ("never accepted", figures["never_accepted"]),
        ("gone with FLUSHALL, as they may", figures["voided_by_flush"]),
        ("lost", figures["lost"]),
        ("with two results", figures["doubled"]),
        ("overlapping attempts", figures["overlapping"]),
        ("overlapping, which a fault at one of the hosts explains", figures["overlapping_excused"]),
        ("attempts, as their guests told them", figures["executions"]),
        ("calls executed more than once", figures["executed_more_than_once"]),
        ("dead letters", figures["dead"]),
        ("entries claimed from other hosts", figures["claims"]),
        ("late (I8)", figures["late"]),
        ("commands in the append-only file", figures["aof_commands"]),
    ]
    lines += [f"  {name:54} {value:>9,}" for name, value in rows]
    lines.append("  accepted to result, ms: p50 {}, p99 {}, longest {}".format(*map(number, figures["result_after_ms"])))
    lines.append("  faults: " + ", ".join(f"{count} {kind}" for kind, count in figures["faults"].items()))
    lines.append("  an attempt that was cut off to the next one of its call, ms:")
    for kind, row in [*figures["recovery_ms"].items(), ("all", figures["recovery_all_ms"])]:
        count, *shares = row
        lines.append("    {:36} {:5}  p50 {:>6}  p99 {:>6}  longest {:>6}".format(kind, count, *map(number, shares)))
    for name, (warm, last) in figures["growth"].items():
        lines.append(f"  {name} of the host that is spared: {warm:,.0f} when warm, {last:,.0f} at the end")
    for name, title in TITLES.items():
        broken = figures["violations"].get(name)
        unseen = name == "I10" or name == "soak" and not figures["growth"]
        told = "not looked at" if unseen else f"BROKEN {broken} times" if broken else "holds"
        lines.append(f"  {name:4} {told:16} {title}")
    return "\n".join(lines)


def timeline(evidence, findings, calls_max=20):
    """What happened, in order: every fault, and everything about the first calls that something is wrong with."""
    keys = list(dict.fromkeys((f.function, f.call) for f in findings if f.call))[:calls_max]
    wanted, rows = set(keys), []
    for fault in evidence.history.faults:
        where = "" if fault.slot is None else f" at host {fault.slot} ({fault.host})"
        rows.append((fault.t, f"FAULT {fault.kind}{where}"))
        if fault.whole:
            rows.append((fault.whole, f"whole {fault.kind}{where}"))
    rows += [(t, f"host {slot} {host or ''}: {what}") for t, slot, host, what in evidence.history.hosts]
    for key in keys:
        call = evidence.by_call.get(key)
        name = f"{key[0]} {key[1]}"
        if call:
            rows.append((call.sent, f"{name}: sent over {call.way}: {call.payload[:160]}"))
            rows += [(t, f"{name}: accepted as {told}") for t, told in call.accepted]
            rows += [(t, f"{name}: perhaps accepted") for t in call.unsure]
            rows += [(t, f"{name}: HTTP {status} {body[:120]}") for t, _, status, _, body in call.answers]
        for e in evidence.executions.get(key, []):
            rows.append((e.begin, f"{name}: attempt {e.attempt} begins on host {e.slot} ({e.build}, execution {e.x})"))
            if e.end:
                rows.append((e.end, f"{name}: execution {e.x} tells its end"))
            if e.gone:
                rows.append((e.gone, f"{name}: execution {e.x} is gone"))
        rows += [(s.t, f"{name}: {s.via}: {s.document.text[:300]}") for s in evidence.sights.get(key, [])]
    rows += [(f.t, f"BROKEN {f.invariant} {f.function or ''} {f.call or ''}: {f.what}") for f in findings if f.t]
    start = min((t for t, _ in rows), default=0.0)
    head = [f"{f.invariant} {f.function or ''} {f.call or ''}: {f.what}" for f in findings]
    body = [f"{(t - start) / 1000:10.3f} s  {what}" for t, what in sorted(rows)]
    return "\n".join([f"seed {evidence.history.run['seed']}", "", *head, "", f"the calls: {len(wanted)}", *body]) + "\n"


def write(directory, evidence, findings, figures):
    """Leaves the summary, and of a run that failed the timeline."""
    (directory / "summary.json").write_text(json.dumps(figures, indent=2) + "\n")
    if findings:
        (directory / "timeline.txt").write_text(timeline(evidence, findings))
