"""How agents act: policies, unrolls, and the threads that play them."""
