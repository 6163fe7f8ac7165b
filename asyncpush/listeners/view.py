"""The display of one push as lines of text, built from its events, for anything that can show
lines.

This module knows neither terminals nor tqdm: `lines` gives the text, and the place of a bar in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from asyncpush.events import (
    CommitStarted,
    FileSkipped,
    Operation,
    PartProgress,
    PushFailed,
    PushFinished,
    PushStarted,
    Record,
    RetryScheduled,
    Waiting,
)
from asyncpush.lazy_dataclass import dataclass
from asyncpush.listeners.aggregator import InFlight, ProgressAggregator
from asyncpush.listeners.format import (
    UNICODE,
    Glyphs,
    clean,
    fit,
    fit_path,
    format_bytes,
    format_count,
    format_duration,
    format_rate,
    format_seconds,
    format_share,
    last_name,
    text_width,
)
from asyncpush.models import UploadProgress
from asyncpush.redaction import redact_value

FILE_LINES = 3
"""Files in flight that get a line of their own."""

_DONE: dict[Operation, str] = {
    "push": "Upload complete",
    "upload": "Stored, not yet committed",
    "commit": "Commit complete",
    "copy": "Copy complete",
    "sync": "Sync complete",
    "audit": "Compared",
}

_GAP = "  "
_SHORTEST_TITLE = 12
_SHORTEST_WORDS = 8
_RECENT = 3.0  # seconds for which a retry that has begun is still shown


@dataclass(frozen=True, slots=True)
class Line:
    """Text and, if `bar_width` is not zero, a bar between `left` and `right` that shows `done` of
    `total`."""

    left: str
    right: str = ""
    bar_width: int = 0
    done: int = 0
    total: int = 1


class PushView:
    """Collects what should be shown of one push, and puts it into words.

    Call `on_event` on the event loop's thread, and everything else on the thread that draws.

    Args:
        title: what is pushed, such as the repo id; if empty, it is taken from the first event.
        clock: seconds, monotonic.
    """

    def __init__(self, title: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.title = clean(title)
        self.retries = 0
        self._ignored = self._unchanged = 0
        self._clock = clock
        self._aggregator = ProgressAggregator(clock=clock)
        self._wait: tuple[float, str] | None = None  # until when, and why
        self._retry: tuple[float, str] | None = None
        self._commit_files = 0
        self._outcome: PushFinished | PushFailed | None = None
        self._slots: list[str | None] = [None] * FILE_LINES
        self._seen: set[str] = set()

    @property
    def succeeded(self) -> bool:
        return isinstance(self._outcome, PushFinished)

    def on_event(self, record: Record) -> None:
        self._aggregator.on_event(record)
        if type(record.event) is PartProgress:
            return
        match record.event:
            case Waiting() as event:
                until = self._clock() + event.seconds
                if self._wait is None or until >= self._wait[0]:  # the longest wait is shown
                    self._wait = (until, clean(redact_value(event.reason)))
            case RetryScheduled() as event:
                self.retries += 1
                self._retry = (self._clock() + event.delay, _retry_words(event))
            case FileSkipped(reason="ignored"):
                self._ignored += 1
            case FileSkipped():
                self._unchanged += 1
            case CommitStarted() as event:
                self._commit_files = event.files
            case PushStarted() as event:
                self.title = self.title or clean(event.repo_id)
            case PushFinished() | PushFailed() as event:
                self._outcome = event
            case _:
                pass

    def snapshot(self) -> UploadProgress:
        return self._aggregator.snapshot()

    def activity(self, progress: UploadProgress) -> str:
        """The phase in a few words, or `waiting 12 s: rate limit`. Never empty, not even at 100
        %."""
        if self._wait is not None and (left := self._wait[0] - self._clock()) > 0:
            return f"waiting {format_duration(max(1.0, left))}: {self._wait[1]}"
        if progress.phase == "hashing":
            hashed = progress.bytes_processed
            if not self._aggregator.planned:
                return "preparing"
            return f"hashing {format_share(hashed, progress.total_bytes)}" if hashed else "hashing"
        if progress.phase == "committing" and self._commit_files:
            return f"committing {format_count(self._commit_files, 'file')}"
        if progress.phase == "uploading":
            if self._aggregator.is_reading:
                return "reading"
            if self._aggregator.is_all_sent:  # the store puts the data together
                return "finishing upload"
        return progress.phase

    def retry_text(self) -> str:
        """The retry that is due or has just begun, in words; empty when there is none."""
        now = self._clock()
        if self._wait is not None and now < self._wait[0]:
            return ""  # shown as the activity, and the cause of most retries
        if self._retry is None or now >= self._retry[0] + _RECENT:
            return ""
        left = self._retry[0] - now
        when = f"retry in {format_duration(left)}" if left >= 1 else "retrying"
        return f"{when}: {self._retry[1]}"

    def news(self) -> str:
        """The current retry, else the number of retries so far; empty when there was none."""
        return self.retry_text() or _retry_count(self.retries)

    def lines(self, width: int, glyphs: Glyphs) -> list[Line]:
        """The whole display: a headline, the overall bar, and a bar for each of a few files."""
        progress = self.snapshot()
        headline = Line(self._headline(progress, width, glyphs))
        if not self._aggregator.planned:
            return [headline]
        bar_width = _bar_width(width)
        share_width = _share_width(progress)
        return [
            headline,
            _overall_line(progress, width, bar_width, glyphs),
            *self._read_lines(progress, width, bar_width),
            *(
                _file_line(file, share_width, width, bar_width, glyphs)
                for file in self._shown_files()
            ),
        ]

    def _read_lines(self, progress: UploadProgress, width: int, bar_width: int) -> list[Line]:
        """A line for a transfer that reads while it sends: what was read, and what was sent of it.
        It reads much before it sends anything."""
        sent, total = self._aggregator.sent_of_read, progress.total_bytes
        if sent is None:
            return []
        left = f"  {_percent(progress.bytes_processed, total)} "
        read = f"{format_share(progress.bytes_processed, total)} read"
        right = f"{read}, {format_bytes(sent)} sent"
        if text_width(left) + bar_width + 1 + text_width(right) > width:
            right = read
        return [_bar_line(left, right, bar_width, progress.bytes_processed, total)]

    def _headline(self, progress: UploadProgress, width: int, glyphs: Glyphs) -> str:
        dot = f" {glyphs.dot} "
        rest = dot.join(word for word in (self.activity(progress), self.news()) if word)
        # What happens is more important than the full name.
        room = max(_SHORTEST_TITLE, width - 2 - text_width(dot + rest))
        title = self._title_within(room, glyphs)
        text = dot.join((title, rest)) if title else rest
        return fit(f"{glyphs.spin(self._clock())} {text}", width, glyphs)

    def _title_within(self, width: int, glyphs: Glyphs) -> str:
        """The title or, if it is too long, the part after the slash."""
        fits = text_width(self.title) <= width
        return fit(self.title if fits else last_name(self.title), width, glyphs)

    def line(self, width: int, glyphs: Glyphs) -> Line:
        """The display in one line, for when many pushes share the screen."""
        progress = self.snapshot()
        words = self.retry_text() or self.activity(progress)
        title_width = max(8, width // 3)
        title = self._title_within(title_width, glyphs)
        left = f"{glyphs.spin(self._clock())} {title}{' ' * (title_width - text_width(title))}"
        if not self._aggregator.planned:
            return Line(fit(f"{left}{_GAP}{words}", width, glyphs))
        bar_width = _bar_width(width) // 2
        left += f" {_percent(progress.bytes_sent, progress.total_bytes)} "
        room = width - text_width(left) - bar_width - 1
        right = format_share(progress.bytes_sent, progress.total_bytes)
        rest = room - text_width(right) - len(_GAP)
        if rest >= _SHORTEST_WORDS:
            right += _GAP + fit(words, rest, glyphs)
        elif words != "uploading":
            right = fit(words, max(1, room), glyphs)
        return _bar_line(left, right, bar_width, progress.bytes_sent, progress.total_bytes)

    def plain(self) -> str:
        """One line without a bar or cursor movement, for log files."""
        progress = self.snapshot()
        activity = self.activity(progress)
        parts = [f"{self.title}: {activity}" if self.title else activity]
        if self._aggregator.planned:
            percent = _percent(progress.bytes_sent, progress.total_bytes).strip()
            share = format_share(progress.bytes_sent, progress.total_bytes)
            parts += [f"{percent} ({share})", *self._read_words(progress), *_speed(progress)]
            parts.append(f"{progress.files_completed:,}/{progress.total_files:,} files")
        if news := self.news():
            parts.append(news)
        return ", ".join(parts)

    def widget_texts(self, progress: UploadProgress) -> tuple[str, str]:
        """The texts to the left and right of a notebook's bar."""
        words = [word for word in (self.title, self.activity(progress)) if word]
        left = f" {UNICODE.dot} ".join(words)
        if not self._aggregator.planned:
            return left, ""
        left += f" {_percent(progress.bytes_sent, progress.total_bytes).strip()}"
        right = [
            format_share(progress.bytes_sent, progress.total_bytes),
            *self._read_words(progress),
            *_speed(progress),
            f"{UNICODE.done} {progress.files_completed:,}/{progress.total_files:,}",
            self.news() or fit_path(clean(progress.current_file or ""), 40, UNICODE),
        ]
        return left, " " + _GAP.join(part for part in right if part)

    def _read_words(self, progress: UploadProgress) -> list[str]:
        sent = self._aggregator.sent_of_read
        if sent is None:
            return []
        return [f"{format_bytes(progress.bytes_processed)} read, {format_bytes(sent)} sent"]

    def closing(self, width: int, glyphs: Glyphs) -> str | None:
        """The final line; None when the push has not ended by itself."""
        match self._outcome:
            case PushFinished() as event:
                return self._success(event, width, glyphs)
            case PushFailed() as event if event.cancelled:
                head = f"{glyphs.failed} {_named(event.operation)} cancelled"
                return _GAP.join((head, self.title)).rstrip()
            case PushFailed() as event:
                # Not shortened: this is the reason, and a line that remains may wrap.
                reason = clean(redact_value(event.error.strip().partition("\n")[0]))
                head = f"{glyphs.failed} {_named(event.operation)} failed"
                words = (head, self.title, f"{event.error_type}: {reason}")
                return _GAP.join(word for word in words if word)
            case _:
                return None

    def _success(self, event: PushFinished, width: int, glyphs: Glyphs) -> str:
        done = "Dry run, nothing sent" if event.what == "plan" else _DONE[event.operation]
        head = f"{glyphs.done} {done}"
        size = f"{format_bytes(event.bytes_transferred)} in {format_seconds(event.elapsed_seconds)}"
        amounts = [f"{format_count(event.files_uploaded, 'file')}, {size}", size]
        if event.what in ("plan", "audit"):
            amounts = [format_count(event.files_uploaded, "file")]
        elif not event.files_uploaded:
            amounts = ["nothing new to send"]
            if self._ignored and not self._unchanged:
                amounts = ["nothing sent, all files are ignored by .gitignore", "all files ignored"]
        elif event.elapsed_seconds >= 1:
            rate = format_rate(event.bytes_transferred / event.elapsed_seconds)
            amounts.insert(0, f"{amounts[0]} ({rate})")
        if self.retries:
            amounts.insert(0, f"{amounts[0]}, {_retry_count(self.retries)}")
        for amount in amounts:
            text = _GAP.join(part for part in (head, self.title, amount) if part)
            if text_width(text) <= width:
                return text
        room = width - text_width(head) - text_width(amounts[-1]) - 2 * len(_GAP)
        if room >= _SHORTEST_TITLE:
            return _GAP.join((head, self._title_within(room, glyphs), amounts[-1]))
        if event.what not in ("upload", "sync"):
            return _GAP.join((head, amounts[-1]))
        # In narrow terminals the glyph alone shows that it is complete.
        room = width - text_width(glyphs.done) - 1 - len(_GAP) - text_width(amounts[-1])
        title = self._title_within(max(_SHORTEST_TITLE, room), glyphs)
        return f"{glyphs.done} {title}{_GAP}{amounts[-1]}"

    def _shown_files(self) -> list[InFlight]:
        """Up to three files, each keeping its line until it is complete.

        A file is shown from its second frame on: small files come and go too fast to be read.
        """
        moving = {file.path: file for file in self._aggregator.in_flight()}
        slots = [path if path in moving else None for path in self._slots]
        lasting = iter(
            [path for path in moving if path in self._seen and path not in slots]
            if None in slots
            else []
        )
        self._slots = [next(lasting, None) if path is None else path for path in slots]
        self._seen = set(moving)
        return [moving[path] for path in self._slots if path is not None]


def _named(operation: Operation) -> str:
    """The operation at the beginning of a closing line."""
    return "Upload" if operation == "push" else operation.capitalize()


def _joined(parts: list[tuple[str, int]], width: int) -> str:
    """The parts with gaps between them. While they do not fit, the part with the highest rank is
    dropped."""
    kept = [part for part in parts if part[0]]
    while True:
        text = _GAP.join(text for text, _ in kept)
        if len(kept) <= 1 or text_width(text) <= width:
            return text
        kept.remove(max(kept, key=lambda part: part[1]))


def _overall_line(progress: UploadProgress, width: int, bar_width: int, glyphs: Glyphs) -> Line:
    sent, total = progress.bytes_sent, progress.total_bytes
    left = f"  {_percent(sent, total)} "
    rate, eta = _rate_and_time(progress)
    count = f"{glyphs.done} {progress.files_completed:,}/{progress.total_files:,}"
    parts = [
        (format_share(sent, total).rjust(_share_width(progress)), 0),
        (rate.ljust(9) if rate else "", 3),
        (eta.ljust(9) if eta else "", 1),
        (count, 2),
    ]
    right = _joined(parts, width - text_width(left) - bar_width - 1).rstrip()
    return _bar_line(left, right, bar_width, sent, total)


def _file_line(
    file: InFlight, share_width: int, width: int, bar_width: int, glyphs: Glyphs
) -> Line:
    """How much of a file was sent; or how much was read, if the transfer says only for all files
    together how much it has sent."""
    size = file.size
    done = file.sent if file.read is None else max(file.sent, file.read)
    left = "       " if size is None else f"  {_percent(done, size)} "
    share = format_bytes(done) if size is None else format_share(done, size)
    right = share.rjust(share_width) + ("" if file.read is None else " read") + _GAP
    room = width - text_width(left) - bar_width - 1 - text_width(right)
    right += fit_path(clean(file.path), max(1, room), glyphs)
    if size is None:
        return Line(left, f" {right}", bar_width)
    return _bar_line(left, right, bar_width, done, size)


def _bar_line(left: str, right: str, bar_width: int, done: int, total: int) -> Line:
    # An empty total is full: there is nothing left to send.
    return Line(left, f" {right}", bar_width, *((done, total) if total else (1, 1)))


def _bar_width(width: int) -> int:
    return min(40, width // 4) if width >= 72 else max(4, width // 6)


def _percent(done: int, total: int) -> str:
    # Rounded down: 100 % is shown only when it is reached.
    return f"{done * 100 // total if total else 100:3d}%"


def _share_width(progress: UploadProgress) -> int:
    return len(format_share(progress.total_bytes, progress.total_bytes))


def _speed(progress: UploadProgress) -> list[str]:
    """Rate and time left, while bytes move."""
    return [word for word in _rate_and_time(progress) if word]


def _rate_and_time(progress: UploadProgress) -> tuple[str, str]:
    """No rate, only the time, while the store has everything already and nothing is sent."""
    if progress.eta_seconds is None:
        return "", ""
    rate = progress.bytes_per_second
    left = format_duration(max(1.0, progress.eta_seconds))
    return format_rate(rate) if rate > 0 else "", f"{left} left"


def _retry_words(event: RetryScheduled) -> str:
    what = event.call if event.part_number is None else f"part {event.part_number}"
    return f"{what}, {clean(redact_value(event.reason))}"


def _retry_count(retries: int) -> str:
    return "" if retries == 0 else "1 retry" if retries == 1 else f"{retries:,} retries"
