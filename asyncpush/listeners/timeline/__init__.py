"""The timeline of a push: what happened when, on which connection, and how fast.

A pure model (`model`) is built from events (`build`), live or from JSON lines (`recording`,
`parsed_events`), laid out (`layout`, `captions`) and drawn in two ways: as an SVG (`svg`, the only
module that imports matplotlib) and as a trace for Perfetto (`trace`). `recording.render` chooses by
the file's name.
"""
