"""Everything that listens to the event stream: progress, bars, JSON lines, logs, the result card.

A listener is a callable that takes a `Record`; the engine knows none of these. Import each from its
own module: only `bars` needs tqdm, and nobody pays for what is not used.
"""
