"""Where the Transformers callback was before `asyncpush.training`: kept for who imports it."""
