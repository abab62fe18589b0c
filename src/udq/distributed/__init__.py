"""Extraction, training and code shards on a Ray cluster. Needs the extra ``udq[ray]``.

This package distributes the work and contains no algorithm: Ray processes call the same functions as a single machine.
Ray moves the data, restarts processes that died, and reassigns their work.
"""
