"""What a Config will cost on a machine, before it runs there."""
