"""Speed, memory and scale of asyncpush and its rivals, in one run: `python -m benchmarks`."""
