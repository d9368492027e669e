"""Speed and memory of the kit beside bare aiohttp and the official SDK: `python -m tests.benchmarks`.

Nothing here gates: a missed target is printed, only a subject that fails or answers wrongly ends in an error.
"""
