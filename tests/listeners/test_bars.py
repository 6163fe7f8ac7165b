from __future__ import annotations

import io
import logging
import os
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

import pyte
import pytest
import tqdm as tqdm_package
from tqdm import tqdm

from asyncpush.events import (
    Event,
    FileStored,
    Notice,
    PartProgress,
    PhaseChanged,
    TransferStarted,
    Waiting,
)
from asyncpush.listeners import bars
from asyncpush.listeners.bars import BarDisplay, preload
from asyncpush.listeners.format import ASCII
from asyncpush.listeners.logs import LogListener
from asyncpush.listeners.screens import PlainScreen, Screen, glyphs_for, terminal_size
from asyncpush.listeners.tqdm_screens import NotebookScreen, TerminalScreen
from asyncpush.listeners.view import PushView
from asyncpush.options import ProgressChoice
from tests.fake_clock import FakeClock
from tests.listeners.helpers import failed, finished, planned, record

MB = 1_000_000


class Terminal(io.StringIO):
    """A terminal that can be looked at: pyte understands what is written to it."""

    encoding = "utf-8"

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        super().__init__()
        self.emulator = pyte.Screen(columns, lines)
        self.emulator.set_mode(pyte.modes.LNM)  # a line feed returns to the first column
        self._stream = pyte.Stream(self.emulator)

    def write(self, text: str) -> int:
        self._stream.feed(text)
        return super().write(text)

    def isatty(self) -> bool:
        return True

    def shown(self) -> list[str]:
        lines = [line.rstrip() for line in self.emulator.display]
        while lines and not lines[-1]:
            lines.pop()
        return lines


@pytest.fixture(autouse=True)
def size(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setenv("TERM", "xterm")
    yield
    assert not tqdm._instances  # type: ignore[attr-defined]
    assert bars._log_lines._users == 0


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread draws: the test does."""
    monkeypatch.setattr(Screen, "_start_thread", lambda self: None)


class Scene:
    """Views on one screen, drawn when told."""

    def __init__(self, screen: Screen) -> None:
        self.clock = FakeClock()
        self.screen = screen

    def push(self, title: str, *events: Event) -> PushView:
        view = PushView(title, clock=self.clock)
        self.screen.add(view)
        return self.emit(view, planned(4, 400 * MB), PhaseChanged("uploading"), *events)

    def emit(self, view: PushView, *events: Event) -> PushView:
        for event in events:
            view.on_event(record(event))
        return view

    def end(self, view: PushView, *events: Event) -> bool:
        self.emit(view, *events)
        gone = self.screen.remove(view)
        more = self.screen.step()
        assert gone.is_set()
        return more


@pytest.mark.usefixtures("still")
class TestTerminal:
    def scene(self, columns: int = 80, lines: int = 24) -> tuple[Scene, Terminal]:
        terminal = Terminal(columns, lines)
        os.environ["COLUMNS"], os.environ["LINES"] = str(columns), str(lines)
        return Scene(TerminalScreen(terminal)), terminal

    def test_a_push_from_start_to_end_at_80_columns(self) -> None:
        scene, terminal = self.scene()
        view = scene.push(
            "me/llama", TransferStarted("a.bin", 200 * MB, 2), PartProgress("a.bin", 1, MB, MB)
        )
        assert scene.screen.step()
        assert scene.screen.step()
        assert terminal.shown() == [
            "⠋ me/llama · uploading",
            "    0% ───────────────────   1/400 MB  ✓ 0/4",
            "    0% ───────────────────   1/200 MB  a.bin",
        ]
        scene.emit(view, FileStored("a.bin", 200 * MB, "lfs"))
        scene.screen.step()
        assert terminal.shown() == [
            "⠋ me/llama · uploading",
            "   50% ━━━━━━━━━╸───────── 200/400 MB  ✓ 1/4",
        ]
        assert not scene.end(view, finished())
        assert terminal.shown() == [
            "✓ Upload complete  me/llama  2 files, 3.00 GB in 30 s (100 MB/s)"
        ]
        assert terminal.emulator.cursor.y == 1
        assert terminal.emulator.cursor.x == 0

    def test_nothing_wraps_at_50_columns(self) -> None:
        scene, terminal = self.scene(50)
        name = "checkpoints/model-00001-of-00002.safetensors"
        view = scene.push(
            "organisation/llama-3-70b-instruct",
            TransferStarted(name, 200 * MB, 2),
            PartProgress(name, 1, 40 * MB, 100 * MB),
            Waiting(12.0, "rate limit"),
        )
        scene.screen.step()
        scene.screen.step()
        assert terminal.shown() == [
            "⠋ llama-3-70b-instruct · waiting 12 s: rate limit",
            "   10% ╸───────  40/400 MB  ✓ 0/4",
            "   20% ━╸──────  40/200 MB  model-00001-of-00002",
        ]
        scene.end(view, failed("no"))
        assert "".join(terminal.shown()).startswith(
            "✗ Upload failed  organisation/llama-3-70b-instruct"
        )

    def test_several_pushes_share_the_screen(self) -> None:
        scene, terminal = self.scene()
        first, second = scene.push("me/a"), scene.push("me/b")
        scene.screen.step()
        assert terminal.shown() == [
            "⠋ me/a                         0% ───────── 0/400 MB  uploading",
            "⠋ me/b                         0% ───────── 0/400 MB  uploading",
        ]
        assert scene.end(first, finished())
        assert terminal.shown() == [
            "✓ Upload complete  me/a  2 files, 3.00 GB in 30 s (100 MB/s)",
            "⠋ me/b · uploading",
            "    0% ───────────────────   0/400 MB  ✓ 0/4",
        ]
        scene.end(second)
        assert len(terminal.shown()) == 1

    def test_more_pushes_than_lines_are_counted(self) -> None:
        scene, terminal = self.scene(lines=5)
        views = [scene.push(f"me/{number}") for number in range(9)]
        scene.screen.step()
        shown = terminal.shown()
        assert [line.split()[1] for line in shown[:2]] == ["me/0", "me/1"]
        assert shown[2] == "  … and 7 more"
        for view in views:
            scene.end(view)

    def test_with_one_row_the_cursor_never_moves_up(self) -> None:
        terminal = Terminal()
        scene = Scene(TerminalScreen(terminal, rows=1))
        view = scene.push("me/a", TransferStarted("x", MB, 1))
        scene.screen.step()
        other = scene.push("me/b")
        scene.screen.step()
        assert len(terminal.shown()) == 1
        scene.end(view)
        scene.end(other, finished())
        assert "\x1b" not in terminal.getvalue()
        assert terminal.shown() == ["✓ Upload complete  me/b  2 files, 3.00 GB in 30 s (100 MB/s)"]

    def test_a_narrower_terminal_is_cleared_of_what_it_wrapped(self) -> None:
        scene, terminal = self.scene()
        view = scene.push("me/a")
        scene.screen.step()
        os.environ["COLUMNS"] = "40"
        scene.screen.step()
        assert "\r\x1b[J" in terminal.getvalue()
        assert max(map(len, terminal.shown())) < 40
        scene.end(view)

    def test_a_frame_is_written_in_one_piece(self, monkeypatch: pytest.MonkeyPatch) -> None:
        scene, terminal = self.scene()
        view = scene.push("me/a")
        scene.screen.step()
        pieces: list[str] = []
        monkeypatch.setattr(terminal, "write", pieces.append)
        scene.screen.step()
        assert len(pieces) == 1
        monkeypatch.undo()
        scene.end(view)

    def test_bars_of_others_and_ours_keep_clear_of_each_other(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scene, terminal = self.scene()
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setattr(tqdm, "monitor_interval", 0)
        theirs = tqdm(total=10, desc="training", ascii=True, miniters=1, mininterval=0)
        view = scene.push("me/a")
        scene.screen.step()
        theirs.update(5)
        tqdm.write("step 5", file=terminal)
        assert terminal.shown()[0] == "step 5"
        assert terminal.shown()[1].startswith("training:  50%")
        assert terminal.shown()[2] == "⠋ me/a · uploading"
        scene.end(view, finished())
        assert terminal.shown()[1].startswith("✓ Upload complete  me/a")
        assert terminal.shown()[1].endswith("(100 MB/s)")
        assert terminal.shown()[2].startswith("training:  50%")
        theirs.close()

    def test_our_bars_take_the_place_of_a_closed_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tqdm, "monitor_interval", 0)
        scene, terminal = self.scene()
        theirs = tqdm(total=1, desc="training", ascii=True, file=terminal)
        view = scene.push("me/a")
        scene.screen.step()
        theirs.close()
        scene.screen.step()
        assert [line.split()[0] for line in terminal.shown()] == ["training:", "⠋", "0%"]
        scene.end(view)
        assert len(terminal.shown()) == 1

    def test_a_terminal_without_unicode_gets_plain_signs(self) -> None:
        terminal = Terminal()
        terminal.encoding = "ascii"
        scene = Scene(TerminalScreen(terminal))
        view = scene.push("me/a", FileStored("x", 200 * MB, "lfs"))
        scene.screen.step()
        assert terminal.shown()[1] == "   50% #########.......... 200/400 MB  OK 1/4"
        scene.end(view, finished())
        assert terminal.getvalue().isascii()

    def test_names_with_braces_are_not_formats(self) -> None:
        scene, terminal = self.scene()
        view = scene.push("me/{bar}{0}")
        scene.screen.step()
        assert terminal.shown()[0] == "⠋ me/{bar}{0} · uploading"
        scene.end(view)

    def test_the_size_of_a_real_terminal_is_asked_for(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        terminal = Terminal()
        monkeypatch.setattr(terminal, "fileno", lambda: 2)
        monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((0, 0)))
        assert terminal_size(terminal) == (79, 24)
        monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((132, 50)))
        assert terminal_size(terminal) == (131, 50)


@pytest.mark.usefixtures("still")
class TestPlain:
    def test_a_line_every_30_seconds_and_one_at_the_end(self) -> None:
        stream = io.StringIO()
        clock = FakeClock()
        screen = PlainScreen(stream, clock=clock)
        scene = Scene(screen)
        scene.clock = clock
        view = scene.push("me/a")
        assert screen.pause() == 30
        screen.step()
        assert stream.getvalue() == ""
        clock.now += 10
        screen.step()
        assert stream.getvalue() == ""
        assert screen.pause() == 20
        clock.now += 20
        screen.step()
        assert stream.getvalue() == "me/a: uploading, 0% (0/400 MB), 0/4 files\n"
        other = scene.push("me/b")
        scene.end(other)  # closed without a word
        scene.end(view, failed("no"))
        assert stream.getvalue().splitlines()[1:] == ["X Upload failed  me/a  AuthError: no"]


class Widget:
    """Stands in for `tqdm.notebook`: keeps what a browser would be told."""

    made: list[Widget]

    def __init__(self, *, total: int, bar_format: str, leave: bool, dynamic_ncols: bool) -> None:
        self.total = total
        self.bar_format = bar_format
        self.n = 0
        self.shown: list[str] = []
        self.style = ""
        self.closed = False
        self.made.append(self)

    def reset(self, total: int) -> None:
        self.total = total

    def refresh(self) -> None:
        self.shown.append(f"{self.n}/{self.total} {self.bar_format}")

    def disp(self, bar_style: str) -> None:
        self.style = bar_style

    def close(self) -> None:
        self.closed = True


@pytest.mark.usefixtures("still")
class TestNotebook:
    @pytest.fixture(autouse=True)
    def none_made(self) -> None:
        Widget.made = []

    def test_one_widget_for_a_push(self) -> None:
        scene = Scene(NotebookScreen(io.StringIO(), Widget))
        view = scene.push("me/{a}", FileStored("x", 100 * MB, "lfs"))
        (widget,) = Widget.made
        scene.screen.step()
        scene.screen.step()
        assert widget.shown[-1] == (
            f"{100 * MB}/{400 * MB} me/{{{{a}}}} · uploading 25%{{bar}} 100/400 MB  ✓ 1/4"
        )
        assert not scene.end(view, finished())
        assert widget.shown[-1].startswith(
            f"{400 * MB}/{400 * MB} {{bar}}✓ Upload complete  me/{{{{a}}}}"
        )
        assert widget.closed
        assert widget.style == ""

    def test_a_failure_is_red_and_an_interruption_too(self) -> None:
        scene = Scene(NotebookScreen(io.StringIO(), Widget))
        first, second = scene.push("me/a"), scene.push("me/b")
        scene.end(first, failed("no " + "and no " * 99))
        scene.end(second)
        assert len(Widget.made[0].shown[-1]) < 150
        assert [widget.style for widget in Widget.made] == ["danger", "danger"]
        assert "✗ Upload failed  me/a  AuthError: no and" in Widget.made[0].shown[-1]

    def test_before_the_plan_the_bar_is_empty(self) -> None:
        screen = NotebookScreen(io.StringIO(), Widget)
        screen.add(PushView("me/a"))
        screen.step()
        assert Widget.made[0].shown == ["0/1 me/a · preparing{bar}"]


class TestChoice:
    def screen_for(self, stream: Any) -> Screen:
        return bars._make_screen(stream)

    def test_a_terminal_has_bars(self) -> None:
        assert isinstance(self.screen_for(Terminal()), TerminalScreen)

    def test_a_file_has_lines(self) -> None:
        assert isinstance(self.screen_for(io.StringIO()), PlainScreen)

    def test_a_dumb_terminal_has_lines(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TERM", "dumb")
        assert isinstance(self.screen_for(Terminal()), PlainScreen)

    def test_what_only_writes_has_lines(self) -> None:
        assert isinstance(self.screen_for(types.SimpleNamespace(write=len)), PlainScreen)

    def test_an_unknown_encoding_gets_plain_signs(self) -> None:
        stream = types.SimpleNamespace(write=len, encoding="no-such-encoding")
        assert glyphs_for(stream) is ASCII  # type: ignore[arg-type]

    def test_a_notebook_with_widgets_has_a_widget(self, monkeypatch: pytest.MonkeyPatch) -> None:
        auto, notebook = types.ModuleType("tqdm.auto"), types.ModuleType("tqdm.notebook")
        vars(auto)["tqdm"] = vars(notebook)["tqdm_notebook"] = Widget
        monkeypatch.setitem(sys.modules, "ipykernel.zmqshell", types.ModuleType("zmqshell"))
        monkeypatch.setitem(sys.modules, "tqdm.auto", auto)
        monkeypatch.setitem(sys.modules, "tqdm.notebook", notebook)
        assert isinstance(self.screen_for(sys.stderr), NotebookScreen)

    def test_a_notebook_without_widgets_has_one_row(self, monkeypatch: pytest.MonkeyPatch) -> None:
        auto = types.ModuleType("tqdm.auto")
        vars(auto)["tqdm"] = tqdm_package.tqdm
        monkeypatch.setitem(sys.modules, "ipykernel.zmqshell", types.ModuleType("zmqshell"))
        monkeypatch.setitem(sys.modules, "tqdm.auto", auto)
        monkeypatch.delitem(sys.modules, "tqdm.notebook", raising=False)
        screen = self.screen_for(sys.stderr)
        assert isinstance(screen, TerminalScreen)
        assert screen._most_rows == 1

    @pytest.mark.parametrize(
        ("value", "disabled"),
        [
            ("1", True),
            ("true", True),
            ("YES", True),
            ("On", True),
            ("0", False),
            ("false", False),
            ("", False),
        ],
    )
    def test_the_environment_can_forbid_bars(
        self, value: str, disabled: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", value)
        assert BarDisplay("bar", stream=Terminal()).enabled is not disabled


@pytest.mark.parametrize(
    ("mode", "term", "loaded"),
    [("auto", "xterm", True), ("bar", "xterm", True), ("auto", "dumb", False), ("none", "", False)],
)
def test_what_draws_is_imported_where_something_is_drawn(
    mode: ProgressChoice, term: str, loaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", term)
    monkeypatch.delitem(sys.modules, "asyncpush.listeners.tqdm_screens")
    bars.preload(mode)
    assert ("asyncpush.listeners.tqdm_screens" in sys.modules) is loaded


class TestDisplay:
    """With the real thread."""

    def emit(self, display: BarDisplay, *events: Event) -> None:
        for event in events:
            display.on_event(record(event))

    @pytest.mark.parametrize("mode", ["auto", "bar"])
    def test_a_push_leaves_one_line_and_no_thread(self, mode: ProgressChoice) -> None:
        terminal = Terminal()
        display = BarDisplay(mode, "me/a", stream=terminal)
        self.emit(display, planned(2, 10))
        (thread,) = (one for one in threading.enumerate() if one.name == "asyncpush-progress")
        self.emit(display, FileStored("x", 10, "lfs"), finished(), Notice("late"))
        display.close()
        display.close()
        self.emit(display, planned(2, 10))
        assert terminal.shown() == ["✓ Upload complete  me/a  2 files, 3.00 GB in 30 s (100 MB/s)"]
        thread.join(5)
        assert not thread.is_alive()

    def test_none_draws_nothing(self) -> None:
        terminal = Terminal()
        display = BarDisplay("none", stream=terminal)
        self.emit(display, planned(2, 10), finished())
        display.close()
        assert terminal.getvalue() == ""

    def test_without_stderr_nothing_is_drawn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stderr", None)
        display = BarDisplay()
        self.emit(display, planned(2, 10))
        display.close()

    def test_closed_before_its_end_it_leaves_nothing(self) -> None:
        terminal = Terminal()
        display = BarDisplay("auto", "me/a", stream=terminal)
        self.emit(display, planned(2, 10))
        display.close()
        assert terminal.shown() == []

    def test_a_push_that_begins_with_its_end(self) -> None:
        terminal = Terminal()
        display = BarDisplay("auto", "me/a", stream=terminal)
        self.emit(display, failed("no"))
        display.close()
        assert terminal.shown() == ["✗ Upload failed  me/a  AuthError: no"]

    def test_a_terminal_that_is_paused_holds_nobody_up(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bars, "_CLOSE_GRACE", 0.01)
        stopped, resumed = threading.Event(), threading.Event()

        class Paused(Terminal):
            def write(self, text: str) -> int:
                stopped.set()
                resumed.wait(20)
                return super().write(text)

        terminal = Paused()
        display = BarDisplay("auto", "me/a", stream=terminal)
        self.emit(display, planned(2, 10))
        assert stopped.wait(20)
        thread = display._screen._thread  # type: ignore[union-attr]
        self.emit(display, FileStored("x", 10, "lfs"), finished())
        display.close()
        assert terminal.shown() == []
        resumed.set()
        thread.join(20)  # type: ignore[union-attr]
        assert terminal.shown() == ["✓ Upload complete  me/a  2 files, 3.00 GB in 30 s (100 MB/s)"]

    def test_only_pushes_to_one_stream_share_a_screen(self) -> None:
        one, other = Terminal(), Terminal()
        displays = [
            BarDisplay("auto", "me/a", stream=one),
            BarDisplay("auto", "me/b", stream=one),
            BarDisplay("auto", "me/c", stream=other),
        ]
        for display in displays:
            self.emit(display, planned(2, 10))
        assert displays[0]._screen is displays[1]._screen
        assert displays[0]._screen is not displays[2]._screen
        for display in displays:
            self.emit(display, finished())
            display.close()
        assert len(one.shown()) == 2
        assert len(other.shown()) == 1

    def test_a_broken_terminal_harms_nothing_and_is_reported(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Broken(Terminal):
            def write(self, text: str) -> int:
                raise OSError("gone")

        stream = Broken()
        first = BarDisplay("auto", "me/a", stream=stream)
        self.emit(first, planned(2, 10))
        first._screen._thread.join(5)  # type: ignore[union-attr]
        second = BarDisplay("auto", "me/b", stream=stream)
        first._screen.add(second._view)  # type: ignore[union-attr]  # too late: it has broken
        self.emit(first, finished())
        first.close()
        assert "progress is no longer shown" in caplog.text
        bars._screens.clear()

    def test_a_terminal_that_breaks_at_the_end_blocks_nobody(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        terminal = Terminal()
        display = BarDisplay("auto", "me/a", stream=terminal)
        self.emit(display, planned(2, 10))
        other = PushView("me/b")
        display._screen.add(other)  # type: ignore[union-attr]
        others: list[threading.Event] = []

        def broken(self: TerminalScreen, view: PushView) -> None:
            others.append(self.remove(other))  # which ends while the screen breaks
            raise OSError("gone")

        monkeypatch.setattr(TerminalScreen, "finish", broken)
        thread = display._screen._thread  # type: ignore[union-attr]
        self.emit(display, finished())
        display.close()
        thread.join(5)  # type: ignore[union-attr]
        assert others[0].is_set()
        assert "progress is no longer shown" in caplog.text


class TestLogLines:
    def terminal(self, monkeypatch: pytest.MonkeyPatch) -> Terminal:
        # Not a fixture: pytest gives each phase of a test another stderr.
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        return terminal

    def start(self, stream: Any = None) -> BarDisplay:
        display = BarDisplay("auto", "me/a", stream=stream)
        display.on_event(record(planned(4, 400)))
        return display

    def test_they_go_above_the_bars_and_keep_their_handler(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        terminal = self.terminal(monkeypatch)
        log = logging.getLogger("tests.bars.above")
        log.propagate = False
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        handler.setLevel(logging.ERROR)
        log.addHandler(handler)
        first, second = self.start(), self.start()
        log.error("one")
        log.warning("not this")
        first.close()
        log.error("two")
        second.on_event(record(finished()))
        second.close()
        assert handler.stream is terminal
        assert terminal.shown() == [
            "ERROR one",
            "ERROR two",
            "✓ Upload complete  me/a  2 files, 3.00 GB in 30 s (100 MB/s)",
        ]
        log.removeHandler(handler)

    def test_a_handler_that_is_given_another_stream_keeps_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.terminal(monkeypatch)
        log = logging.getLogger("tests.bars.moved")
        handler = logging.StreamHandler()
        log.addHandler(handler)
        display = self.start()
        other = io.StringIO()
        handler.setStream(other)
        display.close()
        assert handler.stream is other
        log.removeHandler(handler)

    def test_without_logging_only_what_bars_lack_is_logged(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        terminal = self.terminal(monkeypatch)
        for name in (None, "asyncpush"):
            monkeypatch.setattr(logging.getLogger(name), "handlers", [])
        last_resort = logging.lastResort
        display, listener = self.start(), LogListener()
        for event in (Waiting(9.0, "rate limit"), Notice("the card has no license"), failed("no")):
            display.on_event(record(event))
            listener.on_event(record(event))
        logging.getLogger("tests.bars.other").warning("from elsewhere")
        display.close()
        assert logging.lastResort is last_resort
        assert sorted(terminal.shown()) == [
            "from elsewhere",
            "the card has no license",
            "✗ Upload failed  me/a  AuthError: no",
        ]

    def test_what_others_made_of_the_last_resort_stays(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.terminal(monkeypatch)
        theirs = logging.NullHandler()
        monkeypatch.setattr(logging, "lastResort", None)
        display = self.start()
        assert logging.lastResort is None
        logging.lastResort = theirs
        display.close()
        assert logging.lastResort is theirs

    def test_a_log_file_is_left_as_it_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        terminal = self.terminal(monkeypatch)
        log = logging.getLogger("tests.bars.plain")
        handler = logging.StreamHandler()
        log.addHandler(handler)
        display = self.start(io.StringIO())
        assert handler.stream is terminal
        display.close()
        log.removeHandler(handler)

    def test_a_log_file_gets_the_warnings_and_each_failure_once(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        for name in (None, "asyncpush"):
            monkeypatch.setattr(logging.getLogger(name), "handlers", [])
        display, listener = self.start(), LogListener()
        for event in (Waiting(9.0, "rate limit"), failed("no")):
            display.on_event(record(event))
            listener.on_event(record(event))
        display.close()
        assert sorted(stream.getvalue().splitlines()) == [
            "X Upload failed  me/a  AuthError: no",
            "waiting 9 s: rate limit",
        ]


def test_without_a_stderr_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed):
        monkeypatch.setattr(sys, "stderr", stream)
        preload("bar")
        display = BarDisplay("bar")
        assert not display.enabled
        display.close()
