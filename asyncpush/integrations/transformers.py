"""The Transformers callback by its earlier name; it lives in `asyncpush.training.transformers`."""

from asyncpush.training.transformers import PushCheckpoints

__all__ = ["PushCheckpoints"]
