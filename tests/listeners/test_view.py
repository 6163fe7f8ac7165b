from __future__ import annotations

import pytest

from asyncpush.events import (
    CommitStarted,
    Event,
    FileRouted,
    FileStored,
    HashProgress,
    PartProgress,
    PhaseChanged,
    PushStarted,
    RetryScheduled,
    TransferChosen,
    TransferStarted,
    Waiting,
)
from asyncpush.listeners.format import ASCII, UNICODE, Glyphs, text_width
from asyncpush.listeners.view import Line, PushView
from tests.fake_clock import FakeClock
from tests.listeners.helpers import SIGNED_URL, failed, finished, planned, record

GB = 1_000_000_000


class Scene:
    """A view and the clock it goes by."""

    def __init__(self, title: str = "me/llama") -> None:
        self.clock = FakeClock()
        self.view = PushView(title, clock=self.clock)

    def emit(self, *events: Event) -> Scene:
        for event in events:
            self.view.on_event(record(event))
        return self

    def head(self, width: int = 79, glyphs: Glyphs = UNICODE) -> str:
        return drawn(self.view.lines(width, glyphs)[0])

    def lines(self, width: int = 79, glyphs: Glyphs = UNICODE) -> list[str]:
        self.view.lines(width, glyphs)  # files show from the second frame on
        return [drawn(line) for line in self.view.lines(width, glyphs)]

    def line(self, width: int = 79) -> str:
        return drawn(self.view.line(width, UNICODE))


def drawn(line: Line) -> str:
    """As on the screen, with a plain bar."""
    full = line.bar_width * line.done // line.total
    return line.left + "#" * full + "." * (line.bar_width - full) + line.right


def uploading() -> Scene:
    scene = Scene().emit(planned(43, 4 * GB), PhaseChanged("uploading"))
    scene.view.snapshot()
    scene.clock.now += 1
    return scene.emit(
        TransferStarted("run/model-00001-of-00002.safetensors", 2 * GB, 2),
        TransferStarted("run/model-00002-of-00002.safetensors", 2 * GB, 2),
        PartProgress("run/model-00001-of-00002.safetensors", 1, GB, GB),
    )


def test_the_whole_picture_at_80_columns() -> None:
    assert uploading().lines() == [
        "⠋ me/llama · uploading",
        "   25% ####............... 1.00/4.00 GB  1.00 GB/s  3 s left   ✓ 0/43",
        "   50% #########.......... 1.00/2.00 GB  run/model-00001-of-00002.safetensors",
        "    0% ................... 0.00/2.00 GB  run/model-00002-of-00002.safetensors",
    ]


def test_the_whole_picture_at_50_columns() -> None:
    assert uploading().lines(49) == [
        "⠋ me/llama · uploading",
        "   25% ##...... 1.00/4.00 GB  3 s left   ✓ 0/43",
        "   50% ####.... 1.00/2.00 GB  model-00001-…-00002",
        "    0% ........ 0.00/2.00 GB  model-00002-…-00002",
    ]


def test_the_whole_picture_without_unicode() -> None:
    lines = uploading().lines(60, ASCII)
    assert all(line.isascii() for line in lines)
    assert lines[0] == "- me/llama - uploading"


@pytest.mark.parametrize("width", [20, 30, 40, 49, 60, 71, 72, 79, 100, 200])
@pytest.mark.parametrize("glyphs", [UNICODE, ASCII])
def test_no_line_is_wider_than_the_terminal(width: int, glyphs: Glyphs) -> None:
    scene = uploading()
    scene.view.title = "organisation-with-a-long-name/" + "模型" * 20
    wide = "ordner/" + "文件" * 40 + ".bin"
    scene.emit(
        TransferStarted(wide, GB, 1),
        RetryScheduled("part", 2, 30.0, "connection reset by peer", wide, 7),
    )
    for line in scene.lines(width, glyphs):
        # A bar and a percentage are kept however narrow it gets: at 20 columns not all fits.
        assert text_width(line) <= max(width, 34)
    assert text_width(scene.line(width)) <= max(width, 34)


def test_until_the_plan_is_known_a_spinner_turns() -> None:
    scene = Scene().emit(PhaseChanged("hashing"))
    heads = []
    for _ in range(3):
        heads.append(scene.head())
        scene.clock.now += 0.1
    assert heads == ["⠋ me/llama · preparing", "⠙ me/llama · preparing", "⠹ me/llama · preparing"]
    assert len(scene.lines()) == 1


def test_the_title_comes_from_the_push_unless_given() -> None:
    started = PushStarted("me/other", "model", "main")
    assert Scene("").emit(started).view.title == "me/other"
    assert Scene("mine").emit(started).view.title == "mine"
    assert Scene("").head() == "⠋ preparing"
    assert Scene("").view.plain() == "preparing"


def test_every_phase_says_what_is_being_done() -> None:
    scene = Scene().emit(planned(2, 4 * GB))
    assert scene.head().endswith("· hashing")
    scene.emit(HashProgress("a", GB, 4 * GB))
    assert scene.head().endswith("· hashing 1.00/4.00 GB")
    scene.emit(PhaseChanged("uploading"))
    assert scene.head().endswith("· uploading")
    scene.emit(PhaseChanged("committing"))
    assert scene.head().endswith("· committing")
    scene.emit(CommitStarted(43, 0, None))
    assert scene.head().endswith("· committing 43 files")
    scene.emit(PhaseChanged("verifying"))
    assert scene.head().endswith("· verifying")


def reading_by_xet() -> Scene:
    scene = Scene().emit(
        planned(1, 4 * GB),
        TransferChosen("xet", "granted", reads_while_sending=True),
        PhaseChanged("uploading"),
        TransferStarted("model.bin", 4 * GB, 1),
        HashProgress("model.bin", GB, 4 * GB),
    )
    scene.view.snapshot()
    scene.clock.now += 1
    return scene


def test_xet_shows_bytes_read_and_sent() -> None:
    scene = reading_by_xet()
    assert scene.lines()[:3] == [
        "⠋ me/llama · reading",
        "    0% ................... 0.00/4.00 GB  ✓ 0/1",
        "   25% ####............... 1.00/4.00 GB read, 0 B sent",
    ]
    scene.emit(PartProgress("model.bin", 1, GB // 10, 4 * GB, deduplicated=4 * GB // 10))
    assert scene.head().endswith("· uploading")
    assert scene.lines()[2] == "   25% ####............... 1.00/4.00 GB read, 100 MB sent"
    assert "1.00 GB read, 100 MB sent" in scene.view.plain()
    assert "1.00 GB read, 100 MB sent" in scene.view.widget_texts(scene.view.snapshot())[1]


def test_the_bar_of_a_xet_file_shows_bytes_read() -> None:
    """hf_xet packs 64 MiB before it sends any of them."""
    scene = reading_by_xet()
    scene.lines()
    assert scene.lines()[3] == "   25% ####............... 1.00/4.00 GB read  model.bin"
    scene.emit(PartProgress("model.bin", 1, GB // 10, 4 * GB))
    assert scene.lines()[3] == "   25% ####............... 1.00/4.00 GB read  model.bin"
    scene.emit(HashProgress("model.bin", 4 * GB, 4 * GB))
    assert scene.lines()[3].startswith("  100%")
    # Xet has failed: what was read says nothing about what LFS sends.
    scene.emit(TransferChosen("lfs", "Xet failed"))
    assert scene.lines()[2] == "    2% ................... 0.10/4.00 GB  model.bin"


def test_by_xet_at_40_columns_what_was_read_still_fits() -> None:
    scene = reading_by_xet()
    scene.lines(39)
    assert scene.lines(39)[2:] == [
        "   25% #..... 1.00/4.00 GB read",
        "   25% #..... 1.00/4.00 GB read  model",
    ]


def test_all_sent_is_shown_until_the_store_confirms() -> None:
    scene = reading_by_xet().emit(PartProgress("model.bin", 1, 4 * GB, 4 * GB))
    assert scene.head().endswith("· finishing upload")
    scene.clock.now += 1
    assert scene.view.snapshot().eta_seconds is None  # nobody knows how long that takes
    scene.emit(FileStored("model.bin", 4 * GB, "xet"), PhaseChanged("committing"))
    assert scene.head().endswith("· committing")
    assert len(scene.lines()) == 2  # the row of what was read has gone


def test_a_wait_counts_down_in_words() -> None:
    scene = Scene().emit(planned(2, GB), Waiting(12.0, "rate limit"))
    assert scene.head() == "⠋ me/llama · waiting 12 s: rate limit"
    scene.clock.now += 11.8
    assert "waiting 1 s: rate limit" in scene.head()
    scene.clock.now += 0.2
    assert scene.head().endswith("· hashing")


def test_of_several_waits_the_longest_is_reported() -> None:
    scene = Scene().emit(Waiting(60.0, "rate limit"), Waiting(2.0, "too many requests"))
    assert "waiting 1:00: rate limit" in scene.head()


def test_a_retry_is_reported_then_counted() -> None:
    scene = Scene().emit(
        planned(2, GB),
        PhaseChanged("uploading"),
        RetryScheduled("part", 2, 4.0, f"reset\nby {SIGNED_URL}", "a", 7),
    )
    assert "· retry in 4 s: part 7, reset by https://bucket" in scene.head(200)
    assert "Signature" not in scene.head(200)
    scene.clock.now += 3.5
    assert "· retrying: part 7" in scene.head()
    scene.clock.now += 4
    assert scene.head()[1:] == " me/llama · uploading · 1 retry"
    scene.emit(RetryScheduled("commit", 2, 0.0, "HTTP 503"))
    assert scene.head().endswith("uploading · retrying: commit, HTTP 503")
    scene.clock.now += 4
    assert scene.head().endswith("uploading · 2 retries")


def test_a_wait_hides_the_retries_it_causes() -> None:
    scene = Scene().emit(RetryScheduled("part", 2, 9.0, "HTTP 429"), Waiting(12.0, "rate limit"))
    assert scene.head() == "⠋ me/llama · waiting 12 s: rate limit · 1 retry"


def test_a_long_title_gives_way_to_what_happens() -> None:
    scene = Scene("my-organisation/llama-3-70b-instruct").emit(
        planned(2, GB), Waiting(12.0, "rate limit")
    )
    assert scene.head(49) == "⠋ llama-3-70b-instruct · waiting 12 s: rate limit"
    assert scene.head(42) == "⠋ llama-3-70b-… · waiting 12 s: rate limit"


def test_a_push_of_empty_files_is_full() -> None:
    assert Scene().emit(planned(2, 0)).lines()[1].startswith("  100% ###################")


def test_a_file_of_unknown_size_has_no_percentage() -> None:
    scene = Scene().emit(planned(1, 100), PartProgress("a", 1, 5, 10))
    assert scene.lines()[2] == "       ...................       5 B  a"


def test_a_file_keeps_its_line() -> None:
    scene = Scene().emit(planned(9, 900))

    def names() -> list[str]:
        return [line.split()[-1] for line in scene.lines()[2:]]

    for name in ("a", "b", "c", "d"):
        scene.emit(TransferStarted(name, 100, 1))
    assert names() == ["a", "b", "c"]
    scene.emit(FileStored("b", 100, "lfs"))
    assert names() == ["a", "d", "c"]
    scene.emit(FileStored("a", 100, "lfs"), FileStored("d", 100, "lfs"))
    assert names() == ["c"]


def test_a_file_within_one_frame_is_not_shown() -> None:
    scene = Scene().emit(planned(9, 900))
    for number in range(5):
        scene.emit(TransferStarted(f"f{number}", 100, 1))
        assert len(scene.view.lines(79, UNICODE)) == 2
        scene.emit(FileStored(f"f{number}", 100, "lfs"))


class TestOneLine:
    def test_it_has_all_there_is_room_for(self) -> None:
        scene = uploading()
        assert scene.line() == (
            "⠋ me/llama                    25% ##....... 1.00/4.00 GB  uploading"
        )
        assert scene.line(40) == "⠋ me/llama       25% ... 1.00/4.00 GB"

    def test_when_it_is_narrow_the_unusual_wins(self) -> None:
        scene = uploading().emit(PhaseChanged("verifying"))
        assert scene.line(40) == "⠋ me/llama       25% ... verifying"

    def test_a_retry_is_reported(self) -> None:
        scene = uploading().emit(RetryScheduled("part", 2, 9.0, "reset", "a", 1))
        assert scene.line(100).endswith("retry in 9 s: part 1, reset")

    def test_before_the_plan(self) -> None:
        assert Scene().line() == "⠋ me/llama                    preparing"


class TestPlain:
    def test_before_the_plan(self) -> None:
        assert Scene().view.plain() == "me/llama: preparing"

    def test_everything_in_one_line(self) -> None:
        scene = uploading().emit(
            FileRouted("c", 5, "inline"), RetryScheduled("part", 2, 0.0, "reset", "a", 7)
        )
        assert scene.view.plain() == (
            "me/llama: uploading, 25% (1.00/4.00 GB), 1.00 GB/s, 3 s left, 0/43 files,"
            " retrying: part 7, reset"
        )


class TestWidget:
    def test_before_the_plan(self) -> None:
        view = Scene().view
        assert view.widget_texts(view.snapshot()) == ("me/llama · preparing", "")

    def test_it_names_the_current_file_or_the_trouble(self) -> None:
        scene = uploading()
        left, right = scene.view.widget_texts(scene.view.snapshot())
        assert left == "me/llama · uploading 25%"
        assert right == (
            " 1.00/4.00 GB  1.00 GB/s  3 s left  ✓ 0/43  run/model-00001-of-00002.safetensors"
        )
        scene.emit(RetryScheduled("part", 2, 0.0, "reset", "a", 7))
        assert scene.view.widget_texts(scene.view.snapshot())[1].endswith("retrying: part 7, reset")


class TestClosing:
    def test_nothing_is_said_of_a_push_that_has_not_ended(self) -> None:
        assert Scene().view.closing(79, UNICODE) is None

    @pytest.mark.parametrize(
        ("width", "text"),
        [
            (
                99,
                "✓ Upload complete  my-organisation/llama-3-70b"
                "  43 files, 3.00 GB in 30 s (100 MB/s), 1 retry",
            ),
            (
                89,
                "✓ Upload complete  my-organisation/llama-3-70b"
                "  43 files, 3.00 GB in 30 s (100 MB/s)",
            ),
            (79, "✓ Upload complete  my-organisation/llama-3-70b  43 files, 3.00 GB in 30 s"),
            (69, "✓ Upload complete  my-organisation/llama-3-70b  3.00 GB in 30 s"),
            (49, "✓ Upload complete  llama-3-70b  3.00 GB in 30 s"),
            (40, "✓ llama-3-70b  3.00 GB in 30 s"),
            (30, "✓ llama-3-70b  3.00 GB in 30 s"),
        ],
    )
    def test_success_in_the_room_there_is(self, width: int, text: str) -> None:
        scene = Scene("my-organisation/llama-3-70b")
        scene.emit(RetryScheduled("part", 2, 0.0, "reset"), finished(files_uploaded=43))
        assert scene.view.closing(width, UNICODE) == text
        assert scene.view.succeeded

    def test_success_with_nothing_to_do(self) -> None:
        view = Scene().emit(finished(files_uploaded=0, bytes_transferred=0)).view
        assert view.closing(79, UNICODE) == "✓ Upload complete  me/llama  nothing new to send"

    def test_success_in_no_time_has_no_rate(self) -> None:
        view = Scene("").emit(finished(elapsed_seconds=0.2)).view
        assert view.closing(79, ASCII) == "OK Upload complete  2 files, 3.00 GB in 0.20 s"

    def test_failure_gives_the_reason_in_its_first_line(self) -> None:
        view = Scene().emit(failed(f"HTTP 403 from {SIGNED_URL}\n  body: …")).view
        assert view.closing(20, UNICODE) == (
            "✗ Upload failed  me/llama  AuthError: HTTP 403 from"
            " https://bucket.s3.amazonaws.com/x/part?<redacted>"
        )
        assert not view.succeeded

    def test_cancelled(self) -> None:
        view = Scene().emit(failed(cancelled=True)).view
        assert view.closing(79, UNICODE) == "✗ Upload cancelled  me/llama"
