"""The paper's tables and figures: data files of what it measured on what, and one runner that measures it again."""
