"""Many machines, one commit: each uploads the files it has, one commits the receipts.

`asyncpush.distributed.ray` does so on a Ray cluster. Without Ray: `Uploader.upload_files` on each
machine, and `Uploader.commit` of all receipts on one (see `examples/torch_distributed.py`).
"""
