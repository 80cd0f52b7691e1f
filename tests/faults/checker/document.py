"""Result documents, as docs/protocol.md describes them, and what functions of the suite must answer."""

import json
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Document:
    """One result document: its line, and its payload as text."""

    head: dict = field(hash=False)
    payload: str

    @property
    def id(self):
        return self.head["id"]

    @property
    def status(self):
        return self.head["status"]

    @property
    def raw(self):
        """As Redis has it."""
        return json.dumps(self.head) + "\n" + self.payload

    @property
    def text(self):
        """Two documents are the same if this is."""
        return json.dumps(self.head, sort_keys=True) + "\n" + self.payload


def documents(text):
    """All documents in a text; a key holds one, a notice one or more. Raises ValueError if it is not made of them."""
    data = text if isinstance(text, bytes) else text.encode()
    found = []
    while data:
        line, _, rest = data.partition(b"\n")
        head = json.loads(line)
        length = head["length"]
        if length > len(rest):
            raise ValueError(f"the payload of {head.get('id')} has {len(rest)} bytes instead of {length}")
        found.append(Document(head, rest[:length].decode()))
        data = rest[length:]
    return found


def fnv1a(data):
    """Fowler, Noll and Vo, 64 bits, variant 1a."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


def wrong(call, document, builds):
    """What is wrong with this answer to this call, or None. `builds` has name -> {"witness": digest, "echo": digest}."""
    head, order = document.head, json.loads(call.payload)
    if document.status == "dead":
        code = head.get("error", {}).get("code")
        may = {"poison", "attempts-exhausted", "host-fault", "retry"} | ({"trap"} if order["mode"] == "trap" else set())
        return None if code in may else f"it is dead with the code {code}, and its mode is {order['mode']}"
    if call.function.endswith("/echo"):
        digests = {build["echo"] for build in builds.values()}
        if document.status != "ok" or document.payload != call.payload:
            return f"{document.status} {document.payload!r} instead of its own payload"
        return None if head.get("digest", next(iter(digests))) in digests else "its digest was never published"
    if order["mode"] == "trap":
        return f"{document.status}, although the function traps"
    if order["mode"] == "reject":
        told = head.get("error", {}).get("message", "")
        if document.status != "error" or head["error"]["code"] != "asked-for":
            return f"{document.status} {told!r}, although the function rejects it"
        k, _, build = told.partition(" ")
    else:
        if document.status != "ok":
            return f"{document.status} {head.get('error')}, although the function answers"
        answer = json.loads(document.payload)
        k, build = answer["k"], answer["build"]
        if build in builds and answer["sum"] != f"{fnv1a(build.encode() + call.payload.encode()):016x}":
            return f"the sum {answer['sum']} is not that of its input and {build}"
    if k != order["k"]:
        return f"it is the answer to {k}"
    if build not in builds:
        return f"{build} was never built"
    if "digest" in head and head["digest"] != builds[build]["witness"]:
        return f"{build} answered, and the digest is another's: {head['digest']}"
    return None
