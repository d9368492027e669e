"""Stores, by where they keep things: one module each, imported by its path.

What a store must do is a Protocol beside its one user (`stages.DedupeStore` beside `stages.deduplicate`). A store
fulfils it by its shape: it imports neither the Protocol nor the user, and so may be the default of both.
"""
