"""Any trained network becomes a space and its supernet: traced, its channels grouped, its blocks found."""
