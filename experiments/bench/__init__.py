"""How fast everything is, as a share of what this machine can do: see __main__.py."""
