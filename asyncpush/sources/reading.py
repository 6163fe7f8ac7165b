"""Reading a file's bytes, and noticing when they are no longer those that were collected.

Everything here blocks: call it in threads.
"""

from __future__ import annotations

from asyncpush.models import FileSource
from asyncpush.sources.origins import changed, open_origin


class Reader:
    """The bytes of one source, open for reads at any offset from several threads at once.

    Opening and every check compare a file with the identity it had when it was collected, so a
    path that names another file by now (a link turned round, say) is never read. Close it only
    when no read is running.
    """

    __slots__ = ("_origin", "_source")

    def __init__(self, source: FileSource) -> None:
        self._source = source
        self._origin = open_origin(source)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def readinto(self, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` with the bytes from `offset` on; its length is the answer, always.

        Raises `SourceChangedError` when they end before, `SourceError` when they can't be read.
        """
        done, size = 0, len(buffer)
        while done < size:
            count = self._origin.read_some(offset + done, buffer[done:])
            if not count:
                end = f"ends at byte {offset + done:,} of {self._source.size:,}"
                raise changed(self._source, end)
            done += count
        return size

    def descriptor(self) -> int | None:
        """The open file, where its positions are those of the source. What the kernel reads of it
        by itself notices no change: `readinto` and `check_unchanged` do."""
        return self._origin.descriptor()

    def check_unchanged(self) -> None:
        """Raise `SourceChangedError`, saying how, unless file and path are as they were."""
        self._origin.check_unchanged()

    def close(self) -> None:
        """Close the file; once more does no harm."""
        self._origin.close()


def read_all(source: FileSource) -> bytes:
    """The bytes of a small file, the same from before the read to after it."""
    if source.data is not None:
        return source.data
    content = bytearray(source.size)
    with Reader(source) as reader, memoryview(content) as view:
        reader.readinto(0, view)
        reader.check_unchanged()
    return bytes(content)


def read_sample(source: FileSource, size: int = 512) -> bytes:
    """The first `size` bytes, fewer when the file is shorter."""
    if source.data is not None:
        return source.data[:size]
    sample = bytearray(min(size, source.size))
    with Reader(source) as reader, memoryview(sample) as view:
        reader.readinto(0, view)
    return bytes(sample)
