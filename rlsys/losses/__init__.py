"""Each file here has the pure functions of one method and imports jax only: copy it."""
