"""Building, changing, verifying and repairing collections."""
