"""Reinforcement learning over a store: a trainer, two rollouts, patches in between."""
