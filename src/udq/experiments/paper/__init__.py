"""The paper's tables and figures: data files that say what is measured on what, and one runner."""
