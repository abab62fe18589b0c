"""The paper's tables and figures: data files that specify each cell, and a runner that measures them."""
