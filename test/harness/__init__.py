"""Fault injection for nodes that move an arm: real processes, one recorder, one judge.

Nothing here imports the package under test; README.md says how to use it.
"""
