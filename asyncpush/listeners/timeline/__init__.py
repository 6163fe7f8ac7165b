"""The timeline of a push (OBS-003): what went on when, in which connection, and how fast.

A pure model (`model`) is built from events (`build`), live (`recorder`) or out of JSON lines
(`reading`), and drawn twice: as an SVG (`svg`, the only importer of matplotlib) and as a trace
for Perfetto (`trace`). `writing` picks one by the name of the file.
"""
