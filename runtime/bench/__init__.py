"""Hardened against clean, timed in turns: latency, peak memory, the op's share, and the op against copy and SVD."""
