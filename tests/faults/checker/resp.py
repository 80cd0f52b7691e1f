"""As much of the Redis protocol as the checker needs: a client over a Unix socket, and the commands in an append-only file."""

import socket


class RespError(Exception):
    """Redis said no."""


class Redis:
    """One connection; answers are bytes, numbers, lists and None."""

    def __init__(self, path, timeout=20.0):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        self.socket.connect(path)
        self.stream = self.socket.makefile("rb")

    def __call__(self, *words):
        words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        said = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
        self.socket.sendall(said)
        answer = self._read()
        if isinstance(answer, RespError):
            raise answer
        return answer

    def _read(self):
        line = self.stream.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("Redis has closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest
        if kind == b"-":
            return RespError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            length = int(rest)
            return None if length < 0 else self.stream.read(length + 2)[:-2]
        if kind == b"*":
            return None if int(rest) < 0 else [self._read() for _ in range(int(rest))]
        raise ConnectionError(f"this is no answer: {line!r}")


def commands(data):
    """The commands in an append-only file, in order, without what is noted between them. The last may be cut short."""
    at = 0
    while at < len(data):
        end = data.find(b"\r\n", at)
        if end < 0:
            return
        line = data[at:end]
        at = end + 2
        if line.startswith(b"#"):
            continue
        if not line.startswith(b"*"):
            raise ValueError(f"at byte {at} stands no command: {line[:40]!r}")
        words = []
        for _ in range(int(line[1:])):
            end = data.find(b"\r\n", at)
            if end < 0:
                return
            length = int(data[at + 1 : end])
            at = end + 2
            if at + length + 2 > len(data):
                return
            words.append(data[at : at + length])
            at += length + 2
        yield words
