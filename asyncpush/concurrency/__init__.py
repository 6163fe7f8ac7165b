"""The one way into a thread, and the one way to do many things, a few at a time."""
