"""The timeline of a push: what went on when, in which connection, and how fast.

A pure model (`model`) is built from events (`build`), live or out of JSON lines (`recording`,
`parsed_events`), laid out (`layout`, `captions`) and drawn twice: as an SVG (`svg`, the only
importer of matplotlib) and as a trace for Perfetto (`trace`). `recording.render` picks one by the
name of the file.
"""
