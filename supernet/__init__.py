"""Search spaces, their costs, and the supernets that train and evaluate every subnet of a space."""
