"""File formats: identifying a photo and its size, TIFF in bands, and samples of more than 8 bits."""
