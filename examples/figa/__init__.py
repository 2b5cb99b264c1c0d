"""Fine-grained imitation: the loss of FIGA, and plain supervised tuning beside it."""
