"""The network: one session with its connections, limits, waits and retries.

The only importer of aiohttp on the client side; everything that leaves here is our own values and
errors, with secrets taken out.
"""
