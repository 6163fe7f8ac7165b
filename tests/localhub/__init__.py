"""Tests of the embedded Hub, over real sockets."""
