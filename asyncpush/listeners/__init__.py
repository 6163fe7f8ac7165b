"""Everything that listens to the event stream: progress, bars, JSON lines, logs, OpenTelemetry,
timelines.

A listener is a callable that takes a `Record`; the engine knows none of these. Import each from its
own module. Only `tqdm_screens` imports tqdm, so that a listener that is not used costs nothing.
"""
