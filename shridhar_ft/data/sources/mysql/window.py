"""The stretch of a dump that is in memory: what is being read, and as much as that needs."""

from shridhar_ft.data.sources.mysql.stream import Stream
from shridhar_ft.errors import UserError

CHUNK = 2 << 20
"""Bytes that are read at once."""
AHEAD = 1 << 10
"""Bytes before the end of what is read in which a mark, a keyword or a number may be cut."""
MOST = 64 << 20
"""Bytes that one row, or one statement other than INSERT, may take."""


class Window:
    """Bytes of a dump from the place being read on."""

    def __init__(self, stream: Stream, chunk: int = CHUNK) -> None:
        self.data = b""
        self.at = 0
        """The place being read, in `data`."""
        self.ended = False
        """Whether the dump's end is in `data`; a line feed follows it, so that nothing else touches the end."""
        self._stream = stream
        self._chunk = chunk
        self._base = 0  # where data begins in the dump

    def more(self) -> None:
        """Let go of what was read, and read on.

        As much again as is held: however long a row is, it is looked at a few times only.

        Raises:
            UserError: What begins at this place is longer than anything a dump holds, or unpacking fails.
        """
        assert not self.ended
        rest = self.data[self.at :]
        if len(rest) > MOST:
            raise UserError(
                f"{self.place()}: what begins here has no end within {MOST >> 20} MiB; a quote lacks its partner, "
                f"or this is no dump"
            )
        chunk = self._stream.read(max(self._chunk, len(rest)))
        self._base += self.at
        self.at = 0
        self.data = rest + (chunk or b"\n")
        self.ended = not chunk

    def offset(self, at: int) -> int:
        """The place in the dump of a place in `data`, in unpacked bytes."""
        return self._base + at

    def place(self, at: int | None = None) -> str:
        """FILE and byte of a place in `data`, by default of the one being read."""
        return self._stream.place(self._base + (self.at if at is None else at))

    def malformed(self, what: str, at: int) -> UserError:
        """The error that something at a place in `data` is not as a dump has it."""
        mend = "make it again"
        if len(self._stream.files) > 1:
            mend = "make it again, or, if parts of it were renamed, give them back their names"
        return UserError(f"{self.place(at)}: {what}; the dump is damaged: {mend}")
