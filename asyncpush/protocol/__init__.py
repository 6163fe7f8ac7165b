"""The Hub's wire format as pure functions: requests out of values, values out of answers.

No sockets, no clock, no files: everything here can be tested with bytes alone.
"""
