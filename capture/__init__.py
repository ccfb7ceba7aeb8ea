"""The experiment: a model, its forest of tokens, what is captured of them, and the workers that run grids."""
