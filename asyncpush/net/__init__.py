"""The network layer: one session with its connections, limits, waits and retries.

On the client side only this package imports aiohttp. It returns our own values and errors, with
secrets removed.
"""
