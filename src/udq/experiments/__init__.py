"""Applications on top of collections: the paper's tables and figures, and the demonstration."""
