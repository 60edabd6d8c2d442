"""Running, measuring and attacking hardened models, and the command line over it all.

The top layer of kdguard, built on `export` and `graph_passes`.
"""
