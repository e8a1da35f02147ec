"""Each file here holds the pure functions of one method, imports jax only, and may be copied alone."""
