"""The trainer's side of shipping: finding complete checkpoints, and keeping them.

`source` says which checkpoints of a run are complete, `snapshot` keeps one so
that the next patch can be made after the trainer has deleted or overwritten it.
Neither writes anything into the run's own directory.
"""
