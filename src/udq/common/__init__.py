"""What every package may use; none of it knows a photo."""
