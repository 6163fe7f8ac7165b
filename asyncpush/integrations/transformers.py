"""The Transformers callback by its earlier name; it is now in `asyncpush.training.transformers`."""

from asyncpush.training.transformers import PushCheckpoints

__all__ = ["PushCheckpoints"]
