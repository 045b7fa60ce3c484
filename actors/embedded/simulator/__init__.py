"""A local market that speaks Polygon's API, as an OS process of its own: `python -m actors.embedded.simulator`.

Two feeds give the ticks, a seeded synthetic market (`synthetic.py`) or a recording (`recording.py`); everything else
(pages, keys, limits, oracle) is the same for both and knows the feed only by `feed.py`. The pipeline must not be able
to tell this server from the vendor but by its address, so nothing here imports the rooms that read it.
"""
