"""Shipping: the checkpoints of a trainer into a store, and out of it elsewhere.

`source` says which checkpoints of a run are complete; `snapshot` and `kept` hold
one so that the next patch can be made after the trainer has deleted or
overwritten it; `catalog` is the pointer of a store; `ship`, `pull`, `prune` and
`check` are the verbs; `fetch` and `places` are what pull is made of; `follow` waits for
what comes. Nothing here writes into the run's own directory.
"""
