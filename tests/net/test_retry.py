"""The decision to try again, and the loop that waits for it: no network, no real time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncpush.errors import (
    AuthError,
    CommitConflictError,
    HubError,
    IntegrityError,
    ProtocolError,
    RateLimitedError,
    RepoNotFoundError,
    RetriesExhaustedError,
    SourceChangedError,
)
from asyncpush.events import Emitter, RequestFailed, RetryScheduled
from asyncpush.models import Repo
from asyncpush.net.retry import (
    CREATION_GRACE,
    GARBLED_RETRIES,
    OUTAGE_BACKOFF,
    Attempt,
    Creations,
    RetryBudget,
    RetryLoop,
    RetryPolicy,
    TryAgainError,
)
from asyncpush.options import UploadConfig
from asyncpush.protocol.http import HubRequest
from asyncpush.protocol.repos import head_request
from tests.event_recorder import EventRecorder
from tests.fake_clock import FakeClock

POLICY = RetryPolicy(
    max_retries=5, initial_backoff=0.5, max_backoff=30, outage_timeout=300, max_retry_after=900
)
BUSY = "busy"

property_of = settings(deadline=None)


def passing(**details: object) -> HubError:
    return HubError(BUSY, retryable=True, **details)  # type: ignore[arg-type]


def away() -> HubError:
    return passing(unreachable=True)


class Attempts:
    """Fails as the script says, then succeeds; numbers its attempts as the session does."""

    def __init__(self, *script: BaseException | None) -> None:
        self.script = script
        self.numbers: list[int] = []

    async def __call__(self, this: Attempt) -> str:
        self.numbers.append(this.number)
        index = min(len(self.numbers), len(self.script)) - 1
        failure = self.script[index]
        if failure is None:
            return "done"
        raise failure


class Recorded:
    """The waits that the events of a loop tell of; None where it gave up."""

    def __init__(self) -> None:
        self.recorded = EventRecorder()
        self.events = Emitter([self.recorded])

    @property
    def delays(self) -> list[float | None]:
        recorded: list[float | None] = []
        for record in self.recorded.records:
            match record.event:
                case RetryScheduled(delay=delay):
                    recorded.append(delay)
                case RequestFailed(backoff_ms=None):
                    recorded.append(None)
        return recorded


def loop_of(
    clock: FakeClock,
    policy: RetryPolicy = POLICY,
    *,
    reached: Callable[[], bool] = lambda: False,
    draw: float = 0.5,
    budget: RetryBudget | None = None,
) -> RetryLoop:
    return RetryLoop(
        policy,
        budget=budget,
        reached=reached,
        sleep=clock.sleep,
        clock=clock,
        draw=lambda: draw,
    )


# --- the decision -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failures", "error", "draw", "seconds"),
    [
        pytest.param(1, passing(), 1.0, 0.5, id="first"),
        pytest.param(2, passing(), 1.0, 1.0, id="doubles"),
        pytest.param(5, passing(), 1.0, 8.0, id="doubles on"),
        pytest.param(1, passing(), 0.0, 0.0, id="full jitter, least"),
        pytest.param(5, passing(), 0.25, 2.0, id="full jitter, a quarter"),
        pytest.param(6, passing(), 1.0, None, id="one too many"),
        pytest.param(1, HubError("no"), 1.0, None, id="not retryable"),
        pytest.param(1, passing(retry_after=7.0), 0.0, 7.0, id="hint"),
        pytest.param(1, passing(retry_after=7.0), 1.0, 7.5, id="hint, spread"),
        pytest.param(1, passing(retry_after=0.0), 0.0, 0.0, id="hint of nothing"),
        pytest.param(1, passing(retry_after=900.0), 0.0, 900.0, id="longest hint"),
        pytest.param(1, passing(retry_after=900.5), 0.0, None, id="hint too long"),
        pytest.param(6, passing(retry_after=1.0), 0.0, None, id="hint, one too many"),
        pytest.param(1, HubError("no", retry_after=1.0), 0.0, None, id="hint, not retryable"),
        pytest.param(2, ProtocolError("?", retryable=True), 1.0, 1.0, id="garbled twice"),
        pytest.param(3, ProtocolError("?", retryable=True), 1.0, None, id="garbled thrice"),
    ],
)
def test_the_decision(failures: int, error: HubError, draw: float, seconds: float | None) -> None:
    assert POLICY.delay(failures, error, draw=draw) == seconds


@property_of
@given(
    failures=st.integers(1, 10**6),
    draw=st.floats(0, 1, exclude_max=True),
    initial=st.floats(0, 1e4),
    most=st.floats(0, 1e6),
    hint=st.none() | st.floats(0, 1e9),
    longest=st.floats(0, 1e9),
)
def test_prop_no_wait_is_longer_than_its_cap(
    failures: int, draw: float, initial: float, most: float, hint: float | None, longest: float
) -> None:
    policy = RetryPolicy(10**6, initial, most, 300, longest)
    delay = policy.delay(failures, passing(retry_after=hint), draw=draw)
    if hint is not None and hint > longest:
        assert delay is None
    elif hint is not None:
        assert delay is not None
        assert hint <= delay <= longest + initial
    else:
        assert delay is not None
        assert 0 <= delay <= most
    assert 0 <= policy.outage_delay(failures, draw=draw) <= min(most, OUTAGE_BACKOFF)


def test_the_policy_comes_from_the_settings() -> None:
    config = UploadConfig(
        max_retries=2,
        initial_backoff_ms=100,
        max_backoff_ms=2000,
        outage_timeout=7,
        max_retry_after=8,
    )
    assert RetryPolicy.of(config) == RetryPolicy(2, 0.1, 2.0, 7, 8)


# --- the loop -----------------------------------------------------------------------------------


@property_of
@given(
    max_retries=st.integers(0, 12),
    draws=st.floats(0, 1, exclude_max=True),
    hint=st.none() | st.floats(0, 100),
    garbled=st.booleans(),
)
def test_prop_retry_respects_max_attempts(
    max_retries: int, draws: float, hint: float | None, garbled: bool
) -> None:
    """However a request keeps failing, it is sent once and `max_retries` times again, at most."""
    kind = ProtocolError if garbled else HubError
    attempts = Attempts(kind(BUSY, retryable=True, retry_after=hint))
    clock, recorded = FakeClock(), Recorded()
    loop = loop_of(clock, replace(POLICY, max_retries=max_retries), draw=draws)

    async def run() -> None:
        with pytest.raises(HubError) as caught:
            await loop.run(attempts, recorded.events, "thing")
        assert caught.value.retryable is False

    anyio.run(run)
    allowed = min(max_retries, GARBLED_RETRIES) if garbled else max_retries
    assert attempts.numbers == list(range(1, allowed + 2))
    assert len(clock.slept) == allowed
    assert [*clock.slept, None] == recorded.delays


@property_of
@given(
    faults=st.lists(
        st.sampled_from(
            [passing(), passing(retry_after=2.0), passing(status=503), passing(status=429)]
        ),
        max_size=9,
    ),
    max_retries=st.integers(0, 9),
)
def test_prop_faults_up_to_the_allowance_are_survived(
    faults: Sequence[HubError], max_retries: int
) -> None:
    attempts = Attempts(*faults, None)
    loop = loop_of(FakeClock(), replace(POLICY, max_retries=max_retries))

    async def run() -> None:
        if len(faults) <= max_retries:
            assert await loop.run(attempts, Recorded().events, "thing") == "done"
            assert len(attempts.numbers) == len(faults) + 1
        else:
            with pytest.raises(RetriesExhaustedError):
                await loop.run(attempts, Recorded().events, "thing")
            assert len(attempts.numbers) == max_retries + 1

    anyio.run(run)


async def test_waits_double_and_are_reported() -> None:
    clock, recorded = FakeClock(), Recorded()
    attempts = Attempts(passing(), passing(), passing(), None)
    assert await loop_of(clock).run(attempts, recorded.events, "thing") == "done"
    assert clock.slept == recorded.delays == [0.25, 0.5, 1.0]


@pytest.mark.parametrize(
    "error",
    [
        AuthError("no"),
        RepoNotFoundError("no"),
        CommitConflictError("no"),
        HubError("no", status=422),
        ProtocolError("refused"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_permanent_error_is_raised_unchanged(error: HubError) -> None:
    attempts, recorded = Attempts(error), Recorded()
    with pytest.raises(type(error)) as caught:
        await loop_of(FakeClock()).run(attempts, recorded.events, "thing")
    assert type(caught.value) is type(error)
    assert attempts.numbers == [1]
    assert recorded.delays == [None]


@pytest.mark.parametrize(
    "error", [SourceChangedError("x"), ValueError("x"), KeyError("x")], ids=repr
)
async def test_what_is_no_hub_error_is_not_retried(error: Exception) -> None:
    attempts, recorded = Attempts(error), Recorded()
    with pytest.raises(type(error)) as caught:
        await loop_of(FakeClock()).run(attempts, recorded.events, "thing")
    assert caught.value is error
    assert (attempts.numbers, recorded.delays) == ([1], [])


async def test_the_last_error_keeps_all_it_knew() -> None:
    cause = OSError("the cable")

    async def attempt(this: Attempt) -> str:
        error = passing(status=503, body="b", url="u", request_id="r", headers={"a": "b"})
        error.add_note("a note")
        raise error from cause

    with pytest.raises(RetriesExhaustedError) as caught:
        await loop_of(FakeClock()).run(attempt, Recorded().events, "thing")
    error = caught.value
    assert (error.status, error.body, error.url, error.request_id) == (503, "b", "u", "r")
    assert (error.attempt, error.elapsed_seconds, error.headers) == (6, 7.75, {"a": "b"})
    assert error.message == "busy; tried 6 times"
    assert error.args == (error.message,)
    assert error.__cause__ is cause
    assert error.__notes__ == ["a note"]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        pytest.param(passing(), RetriesExhaustedError, id="a passing fault"),
        pytest.param(RateLimitedError("slow", retryable=True), RateLimitedError, id="429"),
        pytest.param(ProtocolError("?", retryable=True), ProtocolError, id="garbled"),
        pytest.param(passing(retry_after=1e6), RateLimitedError, id="a hint of days"),
    ],
)
async def test_the_error_that_leaves_is_not_to_be_retried(
    error: HubError, kind: type[HubError]
) -> None:
    with pytest.raises(HubError) as caught:
        await loop_of(FakeClock()).run(Attempts(error), Emitter(), "thing")
    assert type(caught.value) is kind
    assert caught.value.retryable is False


async def test_each_failure_is_an_event_of_its_attempts_own_span() -> None:
    recorded, spans = Recorded(), []

    async def attempt(this: Attempt) -> str:
        spans.append((this.events.span_id, this.events.parent_id))
        raise passing(status=503)

    loop = loop_of(FakeClock(), replace(POLICY, max_retries=2))
    with pytest.raises(RetriesExhaustedError):
        await loop.run(attempt, recorded.events, "part", fields={"file": "a", "part_number": 7})
    records = recorded.recorded.records
    assert len({span for span, _ in spans}) == 3
    assert {parent for _, parent in spans} == {recorded.events.span_id}
    failed = [record for record in records if isinstance(record.event, RequestFailed)]
    assert [(record.span_id, record.parent_id) for record in failed] == spans
    events = recorded.recorded.of(RequestFailed)
    assert [(event.retry_attempt, event.backoff_ms) for event in events] == [
        *((1, 250.0), (2, 500.0), (3, None))
    ]
    again = [record for record in records if isinstance(record.event, RetryScheduled)]
    assert [record.span_id for record in again] == [span for span, _ in spans[:2]]
    assert [(event.path, event.part_number) for event in recorded.recorded.of(RetryScheduled)] == [
        ("a", 7),
        ("a", 7),
    ]


async def test_other_errors_of_an_attempt_are_raised_unchanged() -> None:
    damaged = IntegrityError("damaged")
    attempts, recorded = Attempts(TryAgainError("the ETag is wrong", final=damaged)), Recorded()
    with pytest.raises(IntegrityError) as caught:
        await loop_of(FakeClock()).run(attempts, recorded.events, "part")
    assert caught.value is damaged
    assert len(attempts.numbers) == 6
    assert {event.error_type for event in recorded.recorded.of(RequestFailed)} == {"IntegrityError"}


async def test_attempts_of_the_caller_before_and_after_are_counted() -> None:
    conflict, recorded = CommitConflictError("moved", status=412), Recorded()
    with pytest.raises(CommitConflictError) as caught:
        await loop_of(FakeClock()).run(
            Attempts(conflict), recorded.events, "commit", first=4, follow_up=lambda error: 0.5
        )
    assert caught.value.attempt == 4
    (failed,) = recorded.recorded.of(RequestFailed)
    assert (failed.retry_attempt, failed.backoff_ms) == (4, 500.0)
    assert recorded.delays == [0.5]


async def test_an_attempts_error_is_not_the_context_of_the_last() -> None:
    raised = HubError("refused for s3cretvalue", body="s3cretvalue", url="https://h/p?sig=x")
    loop = RetryLoop(POLICY, secret=lambda: "s3cretvalue")
    with pytest.raises(HubError) as caught:
        await loop.run(Attempts(raised), Emitter(), "thing", method="PUT")
    assert (raised.attempt, raised.method, raised.body) == (1, "", "s3cretvalue")
    error = caught.value
    assert (error.method, error.url) == ("PUT", "https://h/p?<redacted>")
    assert "s3cretvalue" not in f"{error!r}{vars(error)}"
    assert error.__context__ is None


async def test_a_hint_of_days_is_reported_and_not_waited_for() -> None:
    clock = FakeClock()
    attempts = Attempts(passing(retry_after=86_400.0))
    with pytest.raises(RateLimitedError, match=r"wait 86400 s, longer than max_retry_after=900"):
        await loop_of(clock).run(attempts, Recorded().events, "thing")
    assert attempts.numbers == [1]
    assert clock.slept == []


async def test_cancellation_passes_through_an_attempt_and_a_wait() -> None:
    started = anyio.Event()

    async def attempt(this: Attempt) -> str:
        started.set()
        await anyio.sleep_forever()
        raise AssertionError

    async with anyio.create_task_group() as group:
        group.start_soon(loop_of(FakeClock()).run, attempt, Recorded().events, "thing")
        await started.wait()
        group.cancel_scope.cancel()

    asleep = asyncio.Event()

    async def sleep(seconds: float) -> None:
        asleep.set()
        await anyio.sleep_forever()

    attempts = Attempts(passing())
    loop = RetryLoop(POLICY, sleep=sleep)
    waiting = asyncio.create_task(loop.run(attempts, Emitter(), "thing"))
    await asleep.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert attempts.numbers == [1]


# --- a network that is away ---------------------------------------------------------------------


def outage(seconds: float, clock: FakeClock) -> Callable[[Attempt], Awaitable[str]]:
    began = clock.now
    numbers: list[int] = []

    async def attempt(this: Attempt) -> str:
        numbers.append(this.number)
        if clock.now - began < seconds:
            raise away()
        return f"back at attempt {this.number}"

    return attempt


@pytest.mark.parametrize("seconds", [1, 60, 299])
async def test_an_outage_is_survived_with_default_settings(seconds: int) -> None:
    clock, recorded = FakeClock(), Recorded()
    loop = loop_of(clock, RetryPolicy.of(UploadConfig()), reached=lambda: True)
    await loop.run(outage(seconds, clock), recorded.events, "thing")
    assert clock.now - 1000 <= seconds + OUTAGE_BACKOFF
    assert len(recorded.delays) <= 10 + seconds / (OUTAGE_BACKOFF / 2)  # patience, not a storm


async def test_an_outage_without_end_ends() -> None:
    clock = FakeClock()
    loop = loop_of(clock, reached=lambda: True)
    with pytest.raises(RetriesExhaustedError) as caught:
        await loop.run(outage(math.inf, clock), Recorded().events, "thing")
    assert caught.value.unreachable
    assert 300 <= clock.now - 1000 <= 300 + 5 + sum(0.25 * 2**n for n in range(6))


async def test_an_endpoint_that_was_never_there_is_no_outage() -> None:
    attempts = Attempts(away())
    with pytest.raises(RetriesExhaustedError):
        await loop_of(FakeClock()).run(attempts, Recorded().events, "thing")
    assert len(attempts.numbers) == 6


async def test_without_outage_timeout_attempts_count_as_ever() -> None:
    attempts = Attempts(away())
    loop = loop_of(FakeClock(), replace(POLICY, outage_timeout=0), reached=lambda: True)
    with pytest.raises(RetriesExhaustedError):
        await loop.run(attempts, Recorded().events, "thing")
    assert len(attempts.numbers) == 6


async def test_attempts_before_and_after_an_outage_count() -> None:
    script = [passing(), passing(), *[away()] * 10, passing(), passing(), passing(), passing()]
    attempts = Attempts(*script)
    with pytest.raises(RetriesExhaustedError):
        await loop_of(FakeClock(), reached=lambda: True).run(attempts, Recorded().events, "thing")
    assert len(attempts.numbers) == 16


async def test_a_second_outage_has_its_own_time() -> None:
    clock = FakeClock()
    policy = replace(POLICY, outage_timeout=10, max_retries=1)
    attempts = Attempts(away(), away(), away(), passing(), away(), away(), away(), None)
    loop = loop_of(clock, policy, reached=lambda: True)
    assert await loop.run(attempts, Recorded().events, "thing") == "done"
    first, second, third = clock.slept[4:7]
    assert (first, second, third) == tuple(clock.slept[:3])  # the waits begin small again


async def test_an_unretryable_unreachable_host_is_no_outage() -> None:
    """An untrusted certificate, a proxy that refuses."""
    attempts = Attempts(HubError("no", unreachable=True))
    with pytest.raises(HubError):
        await loop_of(FakeClock(), reached=lambda: True).run(attempts, Recorded().events, "thing")
    assert attempts.numbers == [1]


# --- the budget ---------------------------------------------------------------------------------


async def test_a_spent_retry_budget_lengthens_the_waits() -> None:
    budget, clock = RetryBudget(), FakeClock()
    while budget.spend():
        pass
    attempts = Attempts(passing(), passing(retry_after=1.0), passing(retry_after=60.0), None)
    await loop_of(clock, budget=budget).run(attempts, Recorded().events, "thing")
    assert clock.slept == [22.5, 22.5, 60.25]
    assert max(clock.slept[:2]) <= POLICY.max_backoff


def test_successes_refill_the_retry_budget() -> None:
    budget = RetryBudget()
    assert sum(budget.spend() for _ in range(200)) == 100
    for _ in range(9):
        budget.succeeded()
    assert not budget.spend()
    for _ in range(5):
        budget.succeeded()
    assert budget.spend()
    for _ in range(10_000):
        budget.succeeded()
    assert sum(budget.spend() for _ in range(200)) == 100


async def test_an_outage_spends_no_budget() -> None:
    budget, clock = RetryBudget(), FakeClock()
    loop = loop_of(clock, budget=budget, reached=lambda: True)
    await loop.run(outage(250, clock), Recorded().events, "thing")
    assert sum(budget.spend() for _ in range(200)) == 100


async def test_giving_up_spends_no_budget() -> None:
    budget = RetryBudget()
    with pytest.raises(AuthError):
        await loop_of(FakeClock(), budget=budget).run(Attempts(AuthError("no")), Emitter(), "thing")
    assert sum(budget.spend() for _ in range(200)) == 100


def test_a_404_after_creation_is_retried_for_half_a_minute() -> None:
    clock = FakeClock()
    made, repo = Creations(clock), Repo("me/new")
    made.note(repo, "refs/pr/1")
    missing, no_branch = RepoNotFoundError("no", status=404), HubError("no", status=404)
    no_branch.error_code = "RevisionNotFound"

    def asked(repo_id: str, branch: str) -> HubRequest:
        return head_request(Repo(repo_id), branch)

    assert made.may_lag(asked("me/new", "refs/pr/1"), missing)
    assert made.may_lag(asked("me/new", "refs/pr/1"), no_branch)
    assert not made.may_lag(asked("me/new", "dev"), no_branch)
    assert not made.may_lag(asked("me/newer", "main"), missing)
    assert not made.may_lag(asked("me/new", "main"), HubError("an entry", status=404))
    assert not made.may_lag(asked("me/new", "main"), RepoNotFoundError("private", status=401))
    clock.now += CREATION_GRACE + 1
    assert not made.may_lag(asked("me/new", "refs/pr/1"), missing)


def test_retries_after_creation_last_some_seconds() -> None:
    lagging = RepoNotFoundError("no", status=404, retryable=True)
    waits = [POLICY.delay(failures, lagging, draw=0.0) or 0.0 for failures in range(1, 6)]
    assert sum(waits) > 7
    assert POLICY.delay(6, lagging, draw=0.0) is None
