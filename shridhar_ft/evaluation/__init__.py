"""Measures a model by the tasks of a suite: each score with its interval, its floor and its ceiling."""
