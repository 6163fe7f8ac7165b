"""Where the Transformers callback was before `asyncpush.training`: kept for those who import it."""
