"""Small adapters for other people's training loops, each needing the package it is named after."""
