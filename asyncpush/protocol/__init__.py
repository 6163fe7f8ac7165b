"""The Hub's wire format as pure functions: they build requests from values, and values from
answers.

No sockets, no clock, no files: everything here can be tested with bytes alone.
"""
