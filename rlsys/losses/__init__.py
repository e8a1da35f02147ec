"""Each file holds one method's pure functions, imports jax only, and can be copied alone."""
